// @anthropic-ai/sdk (JavaScript), Messages.

import Anthropic from "@anthropic-ai/sdk";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";
import { z } from "zod";
import { apiKey, baseUrl, cityOf, drive, extract, greeting, look, model, must, png, roundsMax, system, task, weather, weatherSchema, withResume } from "./common.mjs";

const client = new Anthropic({ baseURL: baseUrl, apiKey, timeout: 60_000 });
const City = z.object({ name: z.string(), inhabitants: z.number().int() });
const tools = [{ name: "weather", description: "Weather of a city", input_schema: weatherSchema }];
const common = { model, max_tokens: 1000, system };
const user = (content) => [{ role: "user", content }];
const textOf = (answer) => answer.content.filter((block) => block.type === "text").map((block) => block.text).join("");

async function rounds(ask) {
  const messages = user(task);
  const first = await ask({ ...common, messages, tools });
  const calls = first.content.filter((block) => block.type === "tool_use");
  must(calls.length && first.stop_reason === "tool_use", "no tool call");
  const results = calls.map((call) => ({ type: "tool_result", tool_use_id: call.id, content: weather(call.input.city) }));
  const next = [...messages, { role: "assistant", content: first.content }, { role: "user", content: results }];
  return textOf(await ask({ ...common, messages: next, tools }));
}

async function loop(ask) {
  const messages = user(task);
  for (let round = 0; round < roundsMax; round++) {
    const answer = await withResume(() => ask({ ...common, messages, tools }));
    const calls = answer.content.filter((block) => block.type === "tool_use");
    if (!calls.length) return textOf(answer);
    const content = calls.map((call) => ({ type: "tool_result", tool_use_id: call.id, content: weather(call.input.city) }));
    messages.push({ role: "assistant", content: answer.content }, { role: "user", content });
  }
  return "";
}

await drive({
  text: async () => textOf(await client.messages.create({ ...common, messages: user(greeting) })),
  stream: async () => {
    const answer = await client.messages.stream({ ...common, messages: user(greeting) }).finalMessage();
    must(answer.usage.output_tokens > 0, "no usage in the stream");
    return textOf(answer);
  },
  tool: () => rounds((body) => client.messages.create(body)),
  stream_tool: () => rounds((body) => client.messages.stream(body).finalMessage()),
  loop: () => loop((body) => client.messages.create(body)),
  stream_loop: () => loop((body) => client.messages.stream(body).finalMessage()),
  structured: async () => {
    const body = { ...common, messages: user(extract), output_config: { format: zodOutputFormat(City) } };
    return cityOf((await client.messages.parse(body)).parsed_output);
  },
  image: async () => {
    const source = { type: "base64", media_type: "image/png", data: png };
    return textOf(await client.messages.create({ ...common, messages: user([{ type: "image", source }, { type: "text", text: look }]) }));
  },
});
