import createClient from "openapi-fetch";
import type { components, paths } from "./generated/annex.js";
import { run, token, url, ws } from "./flow.js";

type Schemas = components["schemas"];
const complete: Schemas["EventCreate"] = { type: "invoice.paid" };
const typed: Schemas["ProblemCode"] = "slug_taken";
// @ts-expect-error: a typo in a problem's code must not compile
const mistyped: Schemas["ProblemCode"] = "slug_takn";
void [typed, mistyped];

const client = createClient<paths>({ baseUrl: url, headers: { Authorization: `Bearer ${token}` } });
const path = { ws };

function sure<T>(value: T | undefined, error: unknown): T {
  if (value === undefined) throw new Error(JSON.stringify(error));
  return value;
}

await run<Schemas["Event"]>({
  async list(limit, cursor) {
    const { data, error } = await client.GET("/api/v1/workspaces/{ws}/events", {
      params: { path, query: cursor === undefined ? { limit } : { limit, cursor } },
    });
    const page = sure(data, error);
    return { data: page.data, next: page.page.next, position: page.stream_cursor };
  },
  async publishOne(type) {
    const { data, error } = await client.POST("/api/v1/workspaces/{ws}/events", { params: { path }, body: { ...complete, type } });
    return sure(data, error);
  },
  async publishBatch(types) {
    const { data, error } = await client.POST("/api/v1/workspaces/{ws}/events/batch", {
      params: { path },
      body: types.map((type) => ({ type, data: { any: ["thing"] }, context: { trace: "1" } })),
    });
    return sure(data, error).data;
  },
  async publishCloudEvent(id) {
    const { data, error } = await client.POST("/api/v1/workspaces/{ws}/events/cloudevents", {
      params: { path },
      headers: { "Content-Type": "application/cloudevents+json" },
      body: { specversion: "1.0", id, source: "/shop", type: "order.placed", traceparent: "00-ab" },
    });
    return sure(data, error);
  },
  async repeat(name, key) {
    const { data, response } = await client.POST("/api/v1/workspaces", {
      params: { header: { "Idempotency-Key": key } },
      body: { name, metadata: { plan: "pro" } },
    });
    return { status: response.status, body: data, replayed: response.headers.get("Idempotent-Replayed") };
  },
  async workspace() {
    const { data, error, response } = await client.GET("/api/v1/workspaces/{ws}", { params: { path } });
    return { etag: response.headers.get("ETag") ?? "", name: sure(data, error).name };
  },
  async rename(name, etag) {
    const { data, error } = await client.PATCH("/api/v1/workspaces/{ws}", {
      params: { path, header: { "If-Match": etag } },
      headers: { "Content-Type": "application/merge-patch+json" },
      body: { name },
    });
    return data ? { name: data.name } : { code: error?.code ?? "" };
  },
});
