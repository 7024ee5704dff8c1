import { defineConfig } from "orval";

export default defineConfig({
  annex: {
    input: { target: "../../docs/openapi.yaml", validation: false },
    output: {
      target: "generated/orval/annex.ts",
      client: "fetch",
      mode: "single",
      override: { mutator: { path: "./orval-fetch.ts", name: "send" } },
    },
  },
});
