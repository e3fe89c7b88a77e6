// The Vercel AI SDK: for each line of JSON, what to do, it prints a line: what it saw.
import { createInterface } from "node:readline";

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, streamText, tool } from "ai";

const verbs = {
  async generate(asked, seen) {
    finish(seen, await generateText(asked));
  },

  async stream(asked, seen) {
    const result = streamText({ ...asked, onError: ({ error }) => tell(seen, error) });
    for await (const part of result.fullStream) {
      if (part.type === "text-delta") seen.text += part.text;
      if (part.type === "finish") seen.finish = part.finishReason;
    }
    const [usage, toolCalls] = [await result.usage, await result.toolCalls];
    finish(seen, { text: seen.text, finishReason: seen.finish, usage, toolCalls });
  },

  async abort_stream(asked, seen) {
    const leave = new AbortController();
    for await (const word of streamText({ ...asked, abortSignal: leave.signal }).textStream) {
      seen.text += word;
      if (seen.text.length > 10) leave.abort();
    }
  },
};

function finish(seen, { text, finishReason, usage, toolCalls }) {
  seen.text = text;
  seen.finish = finishReason;
  seen.usage = [usage.inputTokens, usage.outputTokens, usage.totalTokens];
  seen.calls = toolCalls.map((call) => [call.toolName, call.input]);
}

function tell(seen, error) {
  const last = error.lastError ?? error; // of several tries
  seen.error = {
    class: error.name ?? typeof error, // the error event of a stream is a plain object
    status: last.statusCode,
    code: last.data?.error.code ?? last.code,
    request_id: last.responseHeaders?.["x-request-id"],
    message: last.message,
  };
}

for await (const line of createInterface(process.stdin)) {
  const { verb, url, key, model, said, tools = [], settings } = JSON.parse(line);
  const proxy = { name: "proxy", baseURL: url, apiKey: key, includeUsage: true };
  const asked = { model: createOpenAICompatible(proxy)(model), prompt: said, ...settings };
  asked.tools = Object.fromEntries(
    tools.map(({ function: { name, parameters } }) => [
      name,
      tool({ inputSchema: jsonSchema(parameters) }),
    ]),
  );
  const seen = { text: "" };
  const began = performance.now();
  try {
    await verbs[verb](asked, seen);
  } catch (error) {
    if (!seen.error) tell(seen, error);
  }
  seen.seconds = (performance.now() - began) / 1000;
  console.log(JSON.stringify(seen));
}
