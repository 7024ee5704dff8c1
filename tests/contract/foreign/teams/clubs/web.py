"""One operation of the clubs, as a controller behind a factory."""

from uuid import UUID

from litestar import Controller, Litestar, get
from litestar.params import FromPath
from msgspec import Struct


class Team(Struct):
    id: UUID
    name: str
    slug: str


class TeamController(Controller):
    """What may be asked about teams."""

    path = "/teams"

    @get("/{team_id:uuid}", operation_id="GetTeam")
    async def get_team(self, team_id: FromPath[UUID]) -> Team:
        """Show a team."""
        raise NotImplementedError


def create_app() -> Litestar:
    """Make the app."""
    return Litestar([TeamController], openapi_config=None)
