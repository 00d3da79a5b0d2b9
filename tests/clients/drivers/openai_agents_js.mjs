// @openai/agents (JavaScript), Responses.

import { Agent, OpenAIProvider, Runner, setTracingDisabled, tool } from "@openai/agents";
import { z } from "zod";
import { apiKey, cityOf, drive, extract, greeting, look, model, openaiUrl, png, system, task, weather } from "./common.mjs";

setTracingDisabled(true);
const modelProvider = new OpenAIProvider({ apiKey, baseURL: openaiUrl, useResponses: true });
const runner = new Runner({ modelProvider, tracingDisabled: true });
const City = z.object({ name: z.string(), inhabitants: z.number().int() });
const tools = [
  tool({
    name: "weather",
    description: "Weather of a city",
    parameters: z.object({ city: z.string() }),
    execute: async ({ city }) => weather(city),
  }),
];
const agent = (more = {}) => new Agent({ name: "agent", instructions: system, model, ...more });
const answer = async (agent, prompt, maxTurns = 4) => (await runner.run(agent, prompt, { maxTurns })).finalOutput;

async function streamed(agent, prompt, maxTurns = 4) {
  const result = await runner.run(agent, prompt, { stream: true, maxTurns });
  for await (const _ of result) {
    // Read to the end; the result holds the answer.
  }
  await result.completed;
  if (result.error) throw result.error;
  return result.finalOutput;
}

await drive({
  text: () => answer(agent(), greeting),
  stream: () => streamed(agent(), greeting),
  tool: () => answer(agent({ tools }), task),
  stream_tool: () => streamed(agent({ tools }), task),
  // 10 is the framework's default.
  loop: () => answer(agent({ tools }), task, 10),
  stream_loop: () => streamed(agent({ tools }), task, 10),
  structured: async () => cityOf(await answer(agent({ outputType: City }), extract)),
  image: () => {
    const content = [
      { type: "input_text", text: look },
      { type: "input_image", image: `data:image/png;base64,${png}` },
    ];
    return answer(agent(), [{ role: "user", content }]);
  },
});
