"""HTTP only: one controller a resource of docs/openapi.yaml."""

from litestar import Router

from controllers.api_keys import ApiKeyController
from controllers.checks import CheckController
from controllers.event_types import EventTypeController
from controllers.events import EventController
from controllers.invitations import InvitationController, RecipientController
from controllers.join_rules import JoinRuleController
from controllers.members import MemberController
from controllers.notifications import NotificationController
from controllers.pages import PageController
from controllers.preferences import MyPreferencesController, WorkspacePreferencesController
from controllers.profiles import ProfileController
from controllers.roles import RoleController
from controllers.service import ProcessController, ServiceController, WorkerController
from controllers.stream import StreamController
from controllers.subscriptions import SubscriptionController
from controllers.traces import TraceController
from controllers.unsubscriptions import UnsubscriptionController
from controllers.workspaces import WorkspaceController

CONTROLLERS = (
    ProcessController,
    ServiceController,
    UnsubscriptionController,
    PageController,
    Router(
        "/api/v1",
        route_handlers=[
            ProfileController,
            WorkspaceController,
            MemberController,
            RoleController,
            CheckController,
            ApiKeyController,
            InvitationController,
            RecipientController,
            JoinRuleController,
            EventTypeController,
            EventController,
            TraceController,
            MyPreferencesController,
            WorkspacePreferencesController,
            SubscriptionController,
            NotificationController,
            StreamController,
        ],
    ),
)

WORKER_CONTROLLERS = (ProcessController, WorkerController)
