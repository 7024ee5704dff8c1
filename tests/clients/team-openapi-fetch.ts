// Everything that a team page does, through the client that openapi-typescript and openapi-fetch make.
import createClient from "openapi-fetch";
import type { components, paths } from "./generated/annex.js";
import { domain, equal, people, sure, url, type Person } from "./team.js";

type Schemas = components["schemas"];
const as = (token: string) => createClient<paths>({ baseUrl: url, headers: { Authorization: `Bearer ${token}` } });
type Client = ReturnType<typeof as>;
const [owner, admin, guest, colleague, applicant] = [people.owner, people.admin, people.guest, people.colleague, people.applicant].map(
  (person) => as(person.token),
) as [Client, Client, Client, Client, Client];

// The page itself: a workspace, and what its user may do there.
const created = await owner.POST("/api/v1/workspaces", { body: { name: "Team page" } });
const { id: ws } = sure(created.data, created.error);
const path = { ws };
async function shown(client: Client): Promise<Schemas["Workspace"]> {
  const { data, error } = await client.GET("/api/v1/workspaces/{ws}", { params: { path } });
  return sure(data, error);
}
const { role, permissions } = await shown(owner);
equal([role, permissions.includes("workspace:delete")], ["owner", true]);

// Roles: one of the workspace's own, changed only as the version that was read.
const rolePath = { ws, key: "support" };
const support: Schemas["RolePut"] = { name: "Support", permissions: ["workspace:read", "members:read", "events:read"], grantable: [] };
const put = await owner.PUT("/api/v1/workspaces/{ws}/roles/{key}", { params: { path: rolePath, header: { "If-None-Match": "*" } }, body: support });
equal([put.response.status, sure(put.data, put.error).key], [201, "support"]);
const again = await owner.PUT("/api/v1/workspaces/{ws}/roles/{key}", { params: { path: rolePath, header: { "If-None-Match": "*" } }, body: support });
equal(again.error?.code, "precondition_failed");
const roles = await owner.GET("/api/v1/workspaces/{ws}/roles", { params: { path } });
equal(sure(roles.data).data.map((r) => r.key).sort(), ["admin", "member", "owner", "support", "viewer"]);

// Invitations: by address, sent again, declined, revoked; and by link.
async function invite(body: Schemas["InvitationCreate"]): Promise<Schemas["IssuedInvitation"]> {
  const { data, error } = await owner.POST("/api/v1/workspaces/{ws}/invitations", { params: { path }, body });
  return sure(sure(data, error).data[0]);
}
async function respond(client: Client, body: Schemas["InvitationResponse"]): Promise<Schemas["Joining"]["outcome"] | Schemas["ProblemCode"]> {
  const { data, error } = await client.POST("/api/v1/invitations/respond", { body });
  return data ? data.outcome : sure(error).code;
}
const first = await invite({ role: "admin", emails: [people.admin.email] });
const invitation_id = sure(first.invitation_id);
const resent = await owner.POST("/api/v1/workspaces/{ws}/invitations/{invitation_id}/resend", { params: { path: { ws, invitation_id } } });
const token = sure(sure(resent.data, resent.error).token);
equal(await respond(admin, { token: sure(first.token), accept: true }), "not_found");
equal(await respond(guest, { token, accept: true }), "invitation_for_another");
const offer = await admin.POST("/api/v1/invitations/lookup", { body: { token } });
equal([sure(offer.data, offer.error).workspace_name, sure(offer.data).role], ["Team page", "admin"]);
equal(await respond(admin, { token, accept: true }), "joined");

await invite({ role: "viewer", emails: [people.guest.email] });
const mine = await guest.GET("/api/v1/me/invitations");
equal(await respond(guest, { invitation_id: sure(sure(mine.data).data[0]).id, accept: false }), "declined");
const unwanted = await invite({ role: "viewer", emails: [people.guest.email] });
const revoked = await admin.DELETE("/api/v1/workspaces/{ws}/invitations/{invitation_id}", {
  params: { path: { ws, invitation_id: sure(unwanted.invitation_id) } },
});
equal(revoked.response.status, 204);
const link = await invite({ role: "viewer", max_uses: 1 });
equal(await respond(guest, { token: sure(link.token), accept: true }), "joined");
equal(await respond(applicant, { token: sure(link.token), accept: true }), "invitation_gone");
const invitations = await owner.GET("/api/v1/workspaces/{ws}/invitations", { params: { path, query: { limit: 10 } } });
equal(sure(invitations.data).data.map((i) => i.status), ["accepted", "revoked", "declined", "accepted"]);

// Joining rules: a domain's users join at once, a colleague's request is approved.
async function rule(needs_approval: boolean): Promise<string> {
  const body = { kind: "domain" as const, value: domain, role: "member", needs_approval };
  const { data, error } = await owner.POST("/api/v1/workspaces/{ws}/join-rules", { params: { path }, body });
  return sure(data, error).id;
}
let join_rule_id = await rule(false);
const offers = await colleague.GET("/api/v1/me/join-rules");
equal(sure(offers.data).data.map((o) => o.id), [join_rule_id]);
equal(await respond(colleague, { join_rule_id, accept: true }), "joined");
const dropped = await owner.DELETE("/api/v1/workspaces/{ws}/join-rules/{join_rule_id}", { params: { path: { ws, join_rule_id } } });
equal(dropped.response.status, 204);
join_rule_id = await rule(true);
equal(await respond(applicant, { join_rule_id, accept: true }), "requested");
const open = await admin.GET("/api/v1/workspaces/{ws}/invitations", { params: { path, query: { limit: 1 } } });
const request = sure(sure(open.data).data[0]);
equal([request.status, request.email], ["requested", people.applicant.email]);
const approved = await admin.POST("/api/v1/workspaces/{ws}/invitations/{invitation_id}/approve", { params: { path: { ws, invitation_id: request.id } } });
equal(approved.response.status, 204);
const rules = await owner.GET("/api/v1/workspaces/{ws}/join-rules", { params: { path } });
equal(sure(rules.data).data.length, 1);

// Members: search, change under a version, suspend.
const members = await admin.GET("/api/v1/workspaces/{ws}/members", { params: { path, query: { role: "member", q: domain } } });
const ids = sure(members.data).data.map((m) => m.user_id).sort();
equal(ids, [people.colleague.id, people.applicant.id].sort());
const member = (person: Person) => ({ ws, user_id: person.id });
const before = await admin.GET("/api/v1/workspaces/{ws}/members/{user_id}", { params: { path: member(people.guest) } });
const etag = sure(before.response.headers.get("ETag"));
async function change(client: Client, person: Person, body: Schemas["MemberPatch"], tag?: string) {
  const header = tag === undefined ? {} : { "If-Match": tag };
  const { data, error } = await client.PATCH("/api/v1/workspaces/{ws}/members/{user_id}", { params: { path: member(person), header }, body });
  return data ? `${data.role} ${data.status}` : sure(error).code;
}
equal(await change(admin, people.guest, { role: "support", metadata: { desk: 7 } }, etag), "support active");
equal(await change(admin, people.guest, { role: "viewer" }, etag), "precondition_failed");
equal(await change(admin, people.admin, { role: "owner" }), "not_grantable");
equal(await change(admin, people.owner, { role: "viewer" }), "not_grantable");
equal(await change(admin, people.colleague, { status: "suspended" }), "member suspended");
const used = await owner.DELETE("/api/v1/workspaces/{ws}/roles/{key}", { params: { path: rolePath } });
equal(used.error?.code, "role_in_use");

// Checks, each with its reason.
const questions: Schemas["CheckCreate"][] = [
  { permission: "members:manage" },
  { permission: "workspace:delete" },
  { permission: "events:read", user_id: people.guest.id },
  { permission: "events:read", user_id: people.colleague.id },
];
const checks = await admin.POST("/api/v1/workspaces/{ws}/checks", { params: { path }, body: { questions } });
equal(sure(checks.data, checks.error).data.map((c) => c.reason), ["granted", "missing_permission", "granted", "suspended"]);

// Keys: made, verified, exchanged, rotated, revoked.
const keyed = await admin.POST("/api/v1/workspaces/{ws}/api-keys", { params: { path }, body: { name: "CI", permissions: ["events:publish"] } });
const key = sure(keyed.data, keyed.error);
const exchanged = await as(sure(key.secret)).POST("/api/v1/api-keys/token", { body: { ttl_seconds: 60 } });
const event: Schemas["EventCreate"] = { type: "build.done" };
const published = await as(sure(exchanged.data, exchanged.error).access_token).POST("/api/v1/workspaces/{ws}/events", { params: { path }, body: event });
equal(published.response.status, 201);
const rotated = await admin.POST("/api/v1/workspaces/{ws}/api-keys/{key_id}/rotate", {
  params: { path: { ws, key_id: key.id } },
  body: { overlap_seconds: 3600 },
});
const newer = sure(rotated.data, rotated.error);
async function verdict(secret: string): Promise<string> {
  const { data, error } = await owner.POST("/api/v1/api-keys/verify", { body: { key: secret, permission: "events:publish" } });
  return sure(data, error).reason;
}
equal([await verdict(sure(key.secret)), await verdict(sure(newer.secret))], ["valid", "valid"]);
const ended = await admin.DELETE("/api/v1/workspaces/{ws}/api-keys/{key_id}", { params: { path: { ws, key_id: newer.id } } });
equal([ended.response.status, await verdict(sure(key.secret)), await verdict(sure(newer.secret))], [204, "revoked", "revoked"]);
const keys = await admin.GET("/api/v1/workspaces/{ws}/api-keys", { params: { path } });
equal(sure(keys.data).data.map((k) => k.revoked_at !== null), [true, true]);

// Leaving: the last owner hands over first.
const leave = (client: Client, person: Person) => client.DELETE("/api/v1/workspaces/{ws}/members/{user_id}", { params: { path: member(person) } });
equal((await leave(owner, people.owner)).error?.code, "last_owner");
equal(await change(owner, people.admin, { role: "owner" }), "owner active");
equal((await leave(owner, people.owner)).response.status, 204);
equal((await leave(guest, people.guest)).response.status, 204);
const gone = await owner.GET("/api/v1/workspaces/{ws}", { params: { path } });
equal(gone.error?.code, "not_found");
equal((await shown(admin)).role, "owner");
console.log("the team page works");
process.exit(0);
