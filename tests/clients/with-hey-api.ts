import { client } from "./generated/hey/client.gen.js";
import * as annex from "./generated/hey/sdk.gen.js";
import type { Event, EventCreate, ProblemCode } from "./generated/hey/types.gen.js";
import { run, token, url, ws } from "./flow.js";

client.setConfig({ baseUrl: url, auth: () => token });
const complete: EventCreate = { type: "invoice.paid" };
// @ts-expect-error: a typo in a problem's code must not compile
const mistyped: ProblemCode = "slug_takn";
void mistyped;
const path = { ws };

await run<Event>({
  async list(limit, cursor) {
    const query = cursor === undefined ? { limit } : { limit, cursor };
    const { data } = await annex.listEvents({ path, query, throwOnError: true });
    return { data: data.data, next: data.page.next, position: data.stream_cursor };
  },
  publishOne: async (type) => (await annex.publishEvent({ path, body: { ...complete, type }, throwOnError: true })).data,
  publishBatch: async (types) =>
    (await annex.publishEvents({ path, body: types.map((type) => ({ type, data: { any: 1 } })), throwOnError: true })).data.data,
  async publishCloudEvent(id) {
    const body = { specversion: "1.0" as const, id, source: "/shop", type: "order.placed", traceparent: "00-ab" };
    return (await annex.publishCloudEvent({ path, body, throwOnError: true })).data;
  },
  async repeat(name, key) {
    const { data, response } = await annex.createWorkspace({ body: { name }, headers: { "Idempotency-Key": key } });
    return { status: response.status, body: data, replayed: response.headers.get("Idempotent-Replayed") };
  },
  async workspace() {
    const { data, response } = await annex.getWorkspace({ path, throwOnError: true });
    return { etag: response.headers.get("ETag") ?? "", name: data.name };
  },
  async rename(name, etag) {
    const { data, error } = await annex.updateWorkspace({ path, body: { name }, headers: { "If-Match": etag } });
    return data ? { name: data.name } : { code: error?.code ?? "" };
  },
  async *stream(position) {
    const { stream } = await annex.streamEvents({ path, query: { last_event_id: position } });
    for await (const message of stream) {
      if (typeof message === "object" && "workspace_id" in message && !message.type.startsWith("annex.")) yield message;
    }
  },
});
