// Sends what orval generated: adds the server and the credential, and throws a problem as it is.
export const caller = { url: "", credential: "" };

export async function send<T>(path: string, options: RequestInit): Promise<T> {
  const headers = new Headers(options.headers);
  headers.set("Authorization", `Bearer ${caller.credential}`);
  const response = await fetch(caller.url + path, { ...options, headers });
  const body: unknown = response.status === 204 || response.status === 304 ? undefined : await response.json();
  return { data: body, status: response.status, headers: response.headers } as T;
}
