import * as annex from "./generated/orval/annex.js";
import { run, token, url, ws } from "./flow.js";
import { caller } from "./orval-fetch.js";

caller.url = url;
caller.credential = token;
const complete: annex.EventCreate = { type: "invoice.paid" };
// @ts-expect-error: a typo in a problem's code must not compile
const mistyped: annex.ProblemCode = "slug_takn";
void mistyped;

type Of<A, S> = A extends { status: S; data: infer D } ? D : never;

function sure<A extends { status: number; data: unknown }, S extends A["status"]>(answer: A, ...statuses: S[]): Of<A, S> {
  if (!statuses.some((s) => s === answer.status)) throw new Error(JSON.stringify(answer.data));
  return answer.data as Of<A, S>;
}

await run<annex.Event>({
  async list(limit, cursor) {
    const page = sure(await annex.listEvents(ws, cursor === undefined ? { limit } : { limit, cursor }), 200);
    return { data: page.data, next: page.page.next, position: page.stream_cursor };
  },
  publishOne: async (type) => sure(await annex.publishEvent(ws, { ...complete, type }), 200, 201),
  publishBatch: async (types) =>
    sure(await annex.publishEvents(ws, types.map((type) => ({ type, data: { any: 1 } }))), 200, 201).data,
  async publishCloudEvent(id) {
    const event = { specversion: "1.0" as const, id, source: "/shop", type: "order.placed", traceparent: "00-ab" };
    return sure(await annex.publishCloudEvent(ws, event), 200, 201);
  },
  async repeat(name, key) {
    const answer = await annex.createWorkspace({ name }, { headers: { "Idempotency-Key": key } });
    return { status: answer.status, body: answer.data, replayed: answer.headers.get("Idempotent-Replayed") };
  },
  async workspace() {
    const answer = await annex.getWorkspace(ws);
    return { etag: answer.headers.get("ETag") ?? "", name: sure(answer, 200).name };
  },
  async rename(name, etag) {
    const answer = await annex.updateWorkspace(ws, { name }, { headers: { "If-Match": etag } });
    return answer.status === 200 ? { name: answer.data.name } : answer.status === 412 ? { code: answer.data.code } : {};
  },
});
