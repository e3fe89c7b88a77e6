// The Worker that this project began from, as its description has it. Two things are not its own:
// `AI` stands for the binding of that name, and streams, which it did not have, pass untranslated.

const AI = {
  async run(provider, body) {
    const answer = await provider.fetch("http://provider@API@/run/@MODEL@", {
      method: "POST",
      headers: { Authorization: "Bearer @PROVIDER_KEY@", "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    if (!answer.ok) throw new Error(`the provider answered ${answer.status}`);
    return body.stream ? answer.body : (await answer.json()).result;
  },
};

function json(value, status = 200) {
  return new Response(JSON.stringify(value), {
    status,
    headers: { "Content-Type": "application/json" },
  });
}

export default {
  async fetch(request, env) {
    if (request.method !== "POST") return json({ error: "Only POST is allowed" }, 405);
    if (request.headers.get("Authorization") !== "Bearer @CLIENT_KEY@") {
      return json({ error: "The key is wrong" }, 401);
    }
    let asked;
    try {
      asked = await request.json();
    } catch {
      return json({ error: "The body is not JSON" }, 400);
    }
    const { messages, stream } = asked;
    if (!Array.isArray(messages)) return json({ error: "'messages' must be a list" }, 400);
    try {
      if (stream) {
        const events = await AI.run(env.PROVIDER, { messages, stream });
        return new Response(events, { headers: { "Content-Type": "text/event-stream" } });
      }
      const { response } = await AI.run(env.PROVIDER, { messages });
      return json({ choices: [{ message: { content: response } }] });
    } catch (error) {
      return json({ error: error.message }, 500);
    }
  },
};
