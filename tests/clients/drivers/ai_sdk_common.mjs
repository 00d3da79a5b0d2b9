// The Vercel AI SDK over one of its providers.

import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { cityOf, drive, extract, greeting, look, must, png, roundsMax, system, task, weather } from "./common.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;
const City = z.object({ name: z.string(), inhabitants: z.number().int() });
const tools = {
  weather: tool({
    description: "Weather of a city",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => weather(city),
  }),
};

async function streamed(request) {
  let failure;
  const result = streamText({ ...request, onError: ({ error }) => (failure = error) });
  let text = "";
  for await (const delta of result.textStream) text += delta;
  if (failure) throw failure;
  must((await result.usage).outputTokens > 0, "no usage in the stream");
  return text;
}

export const driveAiSdk = (model) =>
  drive({
    text: async () => (await generateText({ model, system, prompt: greeting })).text,
    stream: () => streamed({ model, system, prompt: greeting }),
    tool: async () => (await generateText({ model, system, prompt: task, tools, stopWhen: stepCountIs(4) })).text,
    stream_tool: () => streamed({ model, system, prompt: task, tools, stopWhen: stepCountIs(4) }),
    loop: async () => (await generateText({ model, system, prompt: task, tools, stopWhen: stepCountIs(roundsMax) })).text,
    stream_loop: () => streamed({ model, system, prompt: task, tools, stopWhen: stepCountIs(roundsMax) }),
    structured: async () => {
      const answer = await generateText({ model, prompt: extract, output: Output.object({ schema: City }) });
      return cityOf(answer.output);
    },
    image: async () => {
      const content = [
        { type: "text", text: look },
        { type: "image", image: Buffer.from(png, "base64"), mediaType: "image/png" },
      ];
      return (await generateText({ model, messages: [{ role: "user", content }] })).text;
    },
  });
