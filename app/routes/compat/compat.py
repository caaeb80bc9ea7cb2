"""The presets: which of them a gateway has."""

from flask import Flask

from . import ag_ui, ai_sdk, langgraph, openai

_PRESETS = {
    "ai-sdk": ai_sdk.blueprint,
    "ag-ui": ag_ui.blueprint,
    "openai": openai.blueprint,
    "langgraph": langgraph.blueprint,
}


def init_app(app: Flask, names: tuple[str, ...]) -> None:
    """Add the presets that the operator has asked for."""
    for name in names:
        app.register_blueprint(_PRESETS[name])
