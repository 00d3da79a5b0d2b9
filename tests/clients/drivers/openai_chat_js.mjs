// openai (JavaScript), chat completions.

import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { apiKey, cityOf, drive, extract, greeting, look, model, must, openaiUrl, png, roundsMax, task, weather, weatherSchema, withResume } from "./common.mjs";

const client = new OpenAI({ baseURL: openaiUrl, apiKey, timeout: 60_000 });
const City = z.object({ name: z.string(), inhabitants: z.number().int() });
const tools = [
  { type: "function", function: { name: "weather", description: "Weather of a city", parameters: weatherSchema, strict: true } },
];
const user = (content) => [{ role: "user", content }];
const textOf = (answer) => answer.choices[0].message.content;

async function stream() {
  let text = "";
  let usage;
  const body = { model, messages: user(greeting), stream: true, stream_options: { include_usage: true } };
  for await (const chunk of await client.chat.completions.create(body)) {
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  must(usage?.total_tokens > 0, "no usage in the stream");
  return text;
}

async function tool() {
  const messages = user(task);
  const answer = (await client.chat.completions.create({ model, messages, tools })).choices[0].message;
  must(answer.tool_calls?.length, "no tool call");
  const results = answer.tool_calls.map((call) => ({
    role: "tool",
    tool_call_id: call.id,
    content: weather(JSON.parse(call.function.arguments).city),
  }));
  return textOf(await client.chat.completions.create({ model, messages: [...messages, answer, ...results], tools }));
}

async function loop(ask) {
  const messages = user(task);
  for (let round = 0; round < roundsMax; round++) {
    const { parsed: _, ...answer } = (await withResume(() => ask({ model, messages, tools }))).choices[0].message;
    if (!answer.tool_calls?.length) return answer.content;
    answer.tool_calls = answer.tool_calls.map(({ id, type, function: { name, arguments: args } }) => ({ id, type, function: { name, arguments: args } }));
    messages.push(answer);
    for (const call of answer.tool_calls) {
      messages.push({ role: "tool", tool_call_id: call.id, content: weather(JSON.parse(call.function.arguments).city) });
    }
  }
  return "";
}

async function streamTool() {
  const runner = client.chat.completions.runTools({
    model,
    messages: user(task),
    stream: true,
    tools: [
      {
        type: "function",
        function: { name: "weather", description: "Weather of a city", parameters: weatherSchema, parse: JSON.parse, function: ({ city }) => weather(city) },
      },
    ],
  });
  return runner.finalContent();
}

await drive({
  text: async () => textOf(await client.chat.completions.create({ model, messages: user(greeting) })),
  stream,
  tool,
  stream_tool: streamTool,
  loop: () => loop((body) => client.chat.completions.create(body)),
  stream_loop: () => loop((body) => client.chat.completions.stream(body).finalChatCompletion()),
  structured: async () => {
    const body = { model, messages: user(extract), response_format: zodResponseFormat(City, "city") };
    return cityOf((await client.chat.completions.parse(body)).choices[0].message.parsed);
  },
  image: async () => {
    const url = `data:image/png;base64,${png}`;
    const content = [{ type: "text", text: look }, { type: "image_url", image_url: { url } }];
    return textOf(await client.chat.completions.create({ model, messages: user(content) }));
  },
});
