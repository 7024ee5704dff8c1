// The team page through supabase-js and its own token handling: a session that expires while the page is used, and the
// option `accessToken`. `supabase.functions` speaks to Annex, as the client's `fetch` sends one function's calls there.
import { createClient, type SupabaseClient } from "@supabase/supabase-js";
import { domain, equal, people, sure, url, type Person } from "./team.js";

const AUTH = sure(process.env.SUPABASE_URL);
const authorized: string[] = [];
const toAnnex: typeof fetch = (input, init) => {
  const asked = String(input);
  if (!asked.startsWith(`${AUTH}/functions/v1/annex/`)) return fetch(input, init);
  authorized.push(new Headers(init?.headers).get("Authorization") ?? "");
  return fetch(asked.replace(`${AUTH}/functions/v1/annex`, `${url}/api/v1`), init);
};
const options = { global: { fetch: toAnnex }, auth: { persistSession: false } };

const signedIn = createClient(AUTH, "sb_publishable_any", options);
const { error: refused } = await signedIn.auth.signInWithPassword({ email: people.owner.email, password: "secret" });
equal(refused, null);
const as = (person: Person) => createClient(AUTH, "sb_publishable_any", { global: options.global, accessToken: async () => person.token });
const [admin, colleague] = [as(people.admin), as(people.colleague)];

type Method = "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
async function ask(supabase: SupabaseClient, method: Method, path: string, body?: Record<string, unknown>): Promise<any> {
  const { data, error } = await supabase.functions.invoke(`annex/${path}`, body === undefined ? { method } : { method, body });
  // A problem arrives as the error's `context`, the response.
  return error ? ((await error.context.json()) as { code: string }).code : data;
}

const { id: ws } = await ask(signedIn, "POST", "workspaces", { name: "Team page" });
equal((await ask(signedIn, "GET", `workspaces/${ws}`)).role, "owner");
const role = { name: "Support", permissions: ["workspace:read", "members:read"], grantable: [] };
equal((await ask(signedIn, "PUT", `workspaces/${ws}/roles/support`, role)).key, "support");
const invited = await ask(signedIn, "POST", `workspaces/${ws}/invitations`, { role: "admin", emails: [people.admin.email] });
equal((await ask(admin, "POST", "invitations/respond", { token: invited.data[0].token, accept: true })).outcome, "joined");
const rule = await ask(signedIn, "POST", `workspaces/${ws}/join-rules`, { kind: "domain", value: domain, role: "member" });
equal((await ask(colleague, "GET", "me/join-rules")).data[0].id, rule.id);
equal((await ask(colleague, "POST", "invitations/respond", { join_rule_id: rule.id, accept: true })).outcome, "joined");
equal((await ask(admin, "GET", `workspaces/${ws}/members?limit=10`)).data.length, 3);
equal((await ask(admin, "PATCH", `workspaces/${ws}/members/${people.colleague.id}`, { role: "support" })).role, "support");
const questions = [{ permission: "events:publish" }, { permission: "members:read" }];
const checks = await ask(colleague, "POST", `workspaces/${ws}/checks`, { questions });
equal(checks.data.map((c: { allowed: boolean }) => c.allowed), [false, true]);
equal(await ask(colleague, "POST", `workspaces/${ws}/api-keys`, { name: "k", permissions: ["workspace:read"] }), "forbidden");
const key = await ask(admin, "POST", `workspaces/${ws}/api-keys`, { name: "CI", permissions: ["events:publish"] });
const newer = await ask(admin, "POST", `workspaces/${ws}/api-keys/${key.id}/rotate`, { overlap_seconds: 60 });
equal((await ask(signedIn, "POST", "api-keys/verify", { key: newer.secret })).reason, "valid");
await ask(admin, "DELETE", `workspaces/${ws}/api-keys/${newer.id}`);
equal((await ask(signedIn, "POST", "api-keys/verify", { key: key.secret })).reason, "revoked");
equal(await ask(signedIn, "DELETE", `workspaces/${ws}/members/${people.owner.id}`), "last_owner");
equal((await ask(signedIn, "PATCH", `workspaces/${ws}/members/${people.admin.id}`, { role: "owner" })).role, "owner");
await ask(signedIn, "DELETE", `workspaces/${ws}/members/${people.owner.id}`);
equal(await ask(signedIn, "GET", `workspaces/${ws}`), "not_found");

// supabase-js refreshed the session by itself, and never sent its own key in a user's place.
const fixed = [people.admin.token, people.colleague.token];
const own = new Set(authorized.filter((header) => !fixed.some((token) => header.endsWith(token))));
equal(own.size > 2 && [...own].every((header) => header.startsWith("Bearer ey")), true);
console.log(`the team page works with ${own.size} tokens of one session`);
process.exit(0);
