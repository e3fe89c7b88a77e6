// OpenAI's SDK for Node: a complete answer, a streamed one, and errors. `npm install openai`
import OpenAI from "openai";

const model = process.env.PROXY_MODEL ?? "@cf/meta/llama-3.1-8b-instruct-fast";
const content = process.argv.slice(2).join(" ") || "Tell me a short story about a brave knight.";
const messages = [{ role: "user", content }];

const client = new OpenAI({
  baseURL: process.env.PROXY_URL ?? "http://127.0.0.1:8000",
  apiKey: process.env.WORKER_ACCESS_KEY,
});

try {
  const answer = await client.chat.completions.create({ model, messages });
  console.log(answer.choices[0].message.content);

  const stream = await client.chat.completions.create({ model, messages, stream: true });
  for await (const chunk of stream) {
    process.stdout.write(chunk.choices[0]?.delta.content ?? "");
  }
  console.log();
} catch (error) {
  if (!(error instanceof OpenAI.APIError)) throw error;
  console.error(`${error.code ?? "no answer"}: ${error.message}`);
  process.exitCode = 1;
}
