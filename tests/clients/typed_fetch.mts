// A typed fetch with the types that openapi-typescript made of docs/openapi.json; it prints what it
// saw as JSON. usage: node typed_fetch.mjs URL KEY MODEL, compiled beside schema.d.mts
import createClient from "openapi-fetch";

import type { components, paths } from "./schema.mjs";

declare const process: { argv: string[] };

const [, , baseUrl, key, model] = process.argv as [string, string, string, string, string];
const headers = { Authorization: `Bearer ${key}` };
const { GET, POST } = createClient<paths, "application/json">({ baseUrl, headers });
const messages: components["schemas"]["Message"][] = [{ role: "user", content: "Hi" }];

const answer = await POST("/v1/chat/completions", { body: { messages } });
const wrong = await POST("/v1/chat/completions", { body: { messages, model: "unknown" } });
const models = await GET("/v1/models");
const one = await GET("/v1/models/{id}", { params: { path: { id: model } } });
const health = await GET("/healthz");

const code: components["schemas"]["ErrorCode"] | undefined = wrong.error?.error.code;
const choice = answer.data?.choices[0];

// What the types must refuse.
// @ts-expect-error: no such role
messages.push({ role: "wizard", content: "Hi" });
// @ts-expect-error: the list of codes is closed
if (code === "no_such_code") console.log(code);
// @ts-expect-error: messages are required
void (() => POST("/v1/chat/completions", { body: {} }));
// @ts-expect-error: the provider's own finish reasons do not come out
if (choice?.finish_reason === "eos") console.log(choice);

const seen = {
  text: choice?.message.content,
  finish: choice?.finish_reason,
  tokens: answer.data?.usage.total_tokens,
  has_request_id: answer.response.headers.has("X-Request-Id"),
  code,
  models: models.data?.data.map((each) => each.id),
  model: one.data?.id,
  health: health.data?.status,
};
console.log(JSON.stringify(seen));
