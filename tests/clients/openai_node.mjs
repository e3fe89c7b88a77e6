// OpenAI's SDK for Node: for each line of JSON, what to do, it prints a line: what it saw.
import { createInterface } from "node:readline";

import OpenAI from "openai";

const verbs = {
  async create(completions, asked, seen, request) {
    const answer = await completions.create(asked, request);
    finish(seen, answer.choices[0]);
    count(seen, answer.usage);
    seen.request_id = answer._request_id;
  },

  async stream(completions, asked, seen) {
    const more = { stream: true, stream_options: { include_usage: true } };
    for await (const chunk of await completions.create({ ...asked, ...more })) {
      const [choice] = chunk.choices;
      seen.text += choice?.delta.content ?? "";
      seen.finish = choice?.finish_reason ?? seen.finish;
      if (chunk.usage) count(seen, chunk.usage);
    }
  },

  async helper(completions, asked, seen) {
    const stream = completions.stream(asked);
    stream.on("content", (delta) => (seen.deltas = (seen.deltas ?? "") + delta));
    finish(seen, (await stream.finalChatCompletion()).choices[0]);
  },

  async abort_whole(completions, asked, seen) {
    await completions.create(asked, { signal: AbortSignal.timeout(500) });
  },

  async abort_stream(completions, asked, seen) {
    const stream = await completions.create({ ...asked, stream: true });
    for await (const chunk of stream) {
      seen.text += chunk.choices[0].delta.content ?? "";
      if (seen.text.length > 10) stream.controller.abort();
    }
  },
};

function finish(seen, { message, finish_reason }) {
  seen.text = message.content;
  seen.finish = finish_reason;
  seen.calls = message.tool_calls?.map(({ function: called }) => [
    called.name,
    JSON.parse(called.arguments),
  ]);
}

function count(seen, { prompt_tokens, completion_tokens, total_tokens }) {
  seen.usage = [prompt_tokens, completion_tokens, total_tokens];
}

for await (const line of createInterface(process.stdin)) {
  const { verb, url, key, model, said, tools, settings, fields, request } = JSON.parse(line);
  const { completions } = new OpenAI({ baseURL: url, apiKey: key, ...settings }).chat;
  const asked = { model, messages: [{ role: "user", content: said }], tools, ...fields };
  const seen = { text: "" };
  const began = performance.now();
  try {
    await verbs[verb](completions, asked, seen, request);
  } catch (error) {
    const { status, type, code, param, requestID: request_id, message } = error;
    seen.error = { class: error.constructor.name, status, type, code, param, request_id, message };
  }
  seen.seconds = (performance.now() - began) / 1000;
  console.log(JSON.stringify(seen));
}
