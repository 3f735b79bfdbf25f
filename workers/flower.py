"""`python -m workers.flower`: Flower on our broker, by our settings, until SIGTERM.

Nobody gets in without a login, and unless a setting says otherwise nothing can be changed from there: workers are not
stopped, tasks neither revoked nor sent. What it has seen survives it. Told to stop, it ends at once, whether Redis
answers or not.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import sys
from typing import NoReturn

from core.errors import NightshiftError, UsageError
from core.log import configure_logging
from core.settings import Settings, get_settings
from workers.app import environment_app

_PROVIDERS = {
    "github": "flower.views.auth.GithubLoginHandler",
    "gitlab": "flower.views.auth.GitLabLoginHandler",
    "google": "flower.views.auth.GoogleAuth2LoginHandler",
    "okta": "flower.views.auth.OktaLoginHandler",
}
# Flower's own variables that may be set beside ours, and what they are if they are not.
_DEFAULTS = {
    "FLOWER_STATE_SAVE_INTERVAL": "10000",  # ms: a killed Flower has lost no more
    "FLOWER_TASKS_COLUMNS": "name,state,args,result,exception,received,runtime,worker,uuid",
}


def flower_options(settings: Settings) -> dict[str, str]:
    """Flower's variables. Logins go this way, because everybody may read a command line.

    Raises:
        UsageError: there is no way to log in.
    """
    return {
        "FLOWER_ADDRESS": settings.host,
        "FLOWER_PORT": str(settings.flower_port),
        "FLOWER_READ_ONLY": str(not settings.flower_control).lower(),
        "FLOWER_PERSISTENT": "true",
        "FLOWER_DB": str(settings.nightshift_home() / "flower" / "state"),
        **_login(settings),
    }


def _login(settings: Settings) -> dict[str, str]:
    secret = settings.flower_oauth_secret.get_secret_value() if settings.flower_oauth_secret else ""
    if settings.flower_auth:
        return {
            "FLOWER_AUTH": settings.flower_auth,
            "FLOWER_AUTH_PROVIDER": _PROVIDERS[settings.flower_auth_provider],
            "FLOWER_OAUTH2_KEY": settings.flower_oauth_key,
            "FLOWER_OAUTH2_SECRET": secret,
            "FLOWER_OAUTH2_REDIRECT_URI": settings.flower_oauth_redirect,
            # The default is made anew at each start, which would log everybody out.
            "FLOWER_COOKIE_SECRET": hashlib.sha256(f"flower's cookies {secret}".encode()).hexdigest(),
        }
    if settings.flower_password is None:
        raise UsageError("Flower needs a login: set NIGHTSHIFT_FLOWER_PASSWORD, or NIGHTSHIFT_FLOWER_AUTH for OAuth")
    return {"FLOWER_BASIC_AUTH": f"{settings.flower_user}:{settings.flower_password.get_secret_value()}"}


def main() -> int:
    """Serve; the exit code."""
    try:
        settings = get_settings()
        configure_logging(settings)
        options = flower_options(settings)
        app = environment_app()
    except NightshiftError as error:
        sys.stderr.write(f"nightshift: {error}\n")
        return error.exit_code
    (settings.nightshift_home() / "flower").mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ.update(_DEFAULTS | {name: os.environ[name] for name in _DEFAULTS if name in os.environ} | options)
    return app.start(["-q", "flower"]) or 0


def _end(code: int) -> NoReturn:
    """Save what Flower has seen, and end without its threads.

    Python would first wait for them, and they ask Redis for the workers: one question after the other, each until it is
    answered or was asked in vain a few times.
    """
    # Flower's own end is one of these, and comes behind the threads otherwise.
    atexit._run_exitfuncs()  # noqa: SLF001 - there is no other way to have them called
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _end(main())
