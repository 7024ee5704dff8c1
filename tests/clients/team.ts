// Who takes part in the flow of a team page, and what both clients of it share.
import assert from "node:assert/strict";

export type Person = { id: string; email: string; token: string };
export type People = Record<"owner" | "admin" | "guest" | "colleague" | "applicant", Person>;

export const url = process.env.ANNEX_URL ?? "";
export const domain = process.env.ANNEX_DOMAIN ?? "";
export const people = JSON.parse(process.env.ANNEX_PEOPLE ?? "{}") as People;

export function sure<T>(value: T | null | undefined, error?: unknown): T {
  if (value === undefined || value === null) throw new Error(`refused: ${JSON.stringify(error)}`);
  return value;
}

export function equal(actual: unknown, expected: unknown): void {
  assert.deepEqual(actual, expected);
}
