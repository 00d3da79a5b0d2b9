// openai (JavaScript), Responses.

import OpenAI from "openai";
import { zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { apiKey, cityOf, drive, extract, greeting, look, model, must, openaiUrl, png, roundsMax, task, weather, weatherSchema, withResume } from "./common.mjs";

const client = new OpenAI({ baseURL: openaiUrl, apiKey, timeout: 60_000 });
const City = z.object({ name: z.string(), inhabitants: z.number().int() });
const tools = [{ type: "function", name: "weather", description: "Weather of a city", parameters: weatherSchema, strict: true }];

function results(answer) {
  const calls = answer.output.filter((item) => item.type === "function_call");
  must(calls.length, "no tool call");
  return calls.map((call) => ({
    type: "function_call_output",
    call_id: call.call_id,
    output: weather(JSON.parse(call.arguments).city),
  }));
}

async function stream() {
  let text = "";
  let usage;
  for await (const event of await client.responses.create({ model, input: greeting, stream: true })) {
    if (event.type === "response.output_text.delta") text += event.delta;
    if (event.type === "response.completed") usage = event.response.usage;
  }
  must(usage?.total_tokens > 0, "no usage in the stream");
  return text;
}

async function rounds(ask) {
  const input = [{ role: "user", content: task }];
  const first = await ask({ model, input, tools, store: false });
  const answer = await ask({ model, input: [...input, ...first.output, ...results(first)], tools, store: false });
  return answer.output_text;
}

async function loop(ask) {
  const input = [{ role: "user", content: task }];
  for (let round = 0; round < roundsMax; round++) {
    const answer = await withResume(() => ask({ model, input, tools, store: false }));
    if (answer.output_text) return answer.output_text;
    input.push(...answer.output, ...results(answer));
  }
  return "";
}

await drive({
  text: async () => (await client.responses.create({ model, input: greeting })).output_text,
  stream,
  tool: () => rounds((body) => client.responses.create(body)),
  stream_tool: () => rounds((body) => client.responses.stream(body).finalResponse()),
  loop: () => loop((body) => client.responses.create(body)),
  stream_loop: () => loop((body) => client.responses.stream(body).finalResponse()),
  structured: async () => {
    const body = { model, input: extract, text: { format: zodTextFormat(City, "city") } };
    return cityOf((await client.responses.parse(body)).output_parsed);
  },
  image: async () => {
    const content = [
      { type: "input_text", text: look },
      { type: "input_image", image_url: `data:image/png;base64,${png}`, detail: "low" },
    ];
    return (await client.responses.create({ model, input: [{ role: "user", content }] })).output_text;
  },
});
