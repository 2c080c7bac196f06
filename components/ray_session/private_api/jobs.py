"""Ray's job client with a time limit for each request."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ray.job_submission import JobSubmissionClient

if TYPE_CHECKING:
    from requests import Response

REQUEST_TIMEOUT_S = 60.0

# Ray sets the level of these loggers itself, so that only their names can silence the lines about
# uploads and closed connections.
for _name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class TimeoutJobSubmissionClient(JobSubmissionClient):  # type: ignore[misc]
    """Ray's job client, with a time limit for each request.

    Overrides `_do_request`, through which all requests of the client go. Ray sets no timeout and
    has no option for one: after a network failure a request would wait forever. A timeout raises
    `requests.Timeout`.
    """

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Response:
        return super()._do_request(method, endpoint, timeout=REQUEST_TIMEOUT_S, **options)
