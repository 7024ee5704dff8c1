// A file of its own, so that the page needs no inline script and its policy can forbid them.

/** Take `#token=…` and remove it from the address; only `annex dev` on this machine makes such links. */
function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1));
  if (!given.has("token")) return undefined;
  history.replaceState(null, "", location.pathname);
  return ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname) ? given.get("token") : undefined;
}

const token = takeToken();

// Softer than these, small text is hard to read.
const CONTRAST = `
  .light-mode { --scalar-color-2: #4b5261; --scalar-color-3: #5c6473; --scalar-color-accent: #2749c4;
    --scalar-color-green: #0b6b3a; --scalar-color-blue: #1b56ae; --scalar-color-orange: #8f4700;
    --scalar-color-yellow: #6f5200; --scalar-color-red: #b3261e; --scalar-color-purple: #6d3bb5; }
  .dark-mode { --scalar-color-2: #c3cad6; --scalar-color-3: #a3adbd; --scalar-color-accent: #9db2ff; }
`;

Scalar.createApiReference("#ui", {
  url: "/openapi.json",
  customCss: CONTRAST,
  withDefaultFonts: false, // nothing is loaded from elsewhere
  telemetry: false,
  agent: { disabled: true },
  mcp: { disabled: true },
  showDeveloperTools: "never",
  hideClientButton: true,
  persistAuth: false,
  defaultHttpClient: { targetKey: "shell", clientKey: "curl" },
  authentication: { preferredSecurityScheme: "bearer", securitySchemes: { bearer: { token: token ?? "" } } },
});
