// What every generated client is asked to do: list, page, publish one, a batch and a CloudEvent, patch under If-Match,
// repeat under an idempotency key, and tell an error by its code. Each client's file fills this in.
import assert from "node:assert/strict";

export type Answer = { status: number; body: unknown; etag?: string | null | undefined; replayed?: string | null | undefined };
export type Published = { id: string; is_duplicate: boolean };

export interface Flow<Event extends { id: string; type: string }> {
  list(limit: number, cursor?: string): Promise<{ data: Event[]; next: string | null; position: string }>;
  publishOne(type: string): Promise<Published>;
  publishBatch(types: string[]): Promise<Published[]>;
  publishCloudEvent(id: string): Promise<Published>;
  repeat(name: string, key: string): Promise<Answer>;
  workspace(): Promise<{ etag: string; name: string }>;
  rename(name: string, etag: string): Promise<{ name?: string; code?: string }>;
  stream?(position: string): AsyncIterable<{ id: string; type: string }>;
}

export const { ANNEX_URL: url = "", ANNEX_TOKEN: token = "", ANNEX_WORKSPACE: ws = "" } = process.env;

// Every URL that a client asks for: none may hold the access token.
export const asked: string[] = [];
const send = globalThis.fetch as (input: unknown, init?: unknown) => Promise<Response>;
globalThis.fetch = (input: unknown, init?: unknown) => {
  asked.push(input instanceof Request ? input.url : String(input));
  return send(input, init);
};

export async function run<E extends { id: string; type: string }>(flow: Flow<E>): Promise<void> {
  const before = await flow.list(1);
  const one = await flow.publishOne("invoice.paid");
  const batch = await flow.publishBatch(["a.b", "c.d"]);
  const cloud = await flow.publishCloudEvent("order-1");
  assert.deepEqual([one, ...batch, cloud].map((p) => p.is_duplicate), [false, false, false, false]);
  assert.equal((await flow.publishCloudEvent("order-1")).is_duplicate, true);

  const found: E[] = [];
  let cursor: string | null | undefined;
  do {
    const page = await flow.list(2, cursor ?? undefined);
    found.push(...page.data);
    cursor = page.next;
  } while (cursor);
  const sent = [one, ...batch, cloud].map((p) => p.id);
  assert.deepEqual(found.map((e) => e.id).filter((id) => sent.includes(id)), sent.reverse());

  const { etag } = await flow.workspace();
  assert.equal((await flow.rename("Renamed", etag)).name, "Renamed");
  assert.equal((await flow.rename("Late", etag)).code, "precondition_failed");

  const [first, again] = [await flow.repeat("Once", "k-1"), await flow.repeat("Once", "k-1")];
  assert.deepEqual([first.status, again.status, again.replayed], [201, 201, "true"]);
  assert.deepEqual(again.body, first.body);

  if (flow.stream) {
    const streamed: string[] = [];
    for await (const event of flow.stream(before.position)) {
      streamed.push(event.id);
      if (streamed.length === 4) break;
    }
    assert.deepEqual(streamed, sent.reverse());
  }
  assert.ok(asked.length > 8 && asked.every((u) => !u.includes(token)), "a URL holds the access token");
  console.log(`${asked.length} requests`);
  process.exit(0);
}
