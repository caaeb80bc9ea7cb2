"""Checks of the answers that refuse a request."""


def check_refusal(response, status: int) -> list[str]:
    """Check that a response is a problem with this status; return the fields that it names."""
    assert response.status_code == status, response.text
    assert response.mimetype == "application/problem+json"
    assert response.json["status"] == status
    assert all(error["detail"] for error in response.json.get("errors", []))
    return [error["field"] for error in response.json.get("errors", [])]
