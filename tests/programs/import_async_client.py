"""Makes an AsyncClient where the modules named as arguments cannot be imported."""

import asyncio
import sys

sys.modules.update(dict.fromkeys(sys.argv[1:]))

from app.async_client import AsyncClient  # noqa: E402


async def main() -> None:
    async with AsyncClient("http://127.0.0.1:1"):
        pass


asyncio.run(main())
