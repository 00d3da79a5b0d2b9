// Vercel AI SDK, @ai-sdk/openai with chat completions.

import { createOpenAI } from "@ai-sdk/openai";
import { driveAiSdk } from "./ai_sdk_common.mjs";
import { apiKey, model, openaiUrl } from "./common.mjs";

await driveAiSdk(createOpenAI({ baseURL: openaiUrl, apiKey }).chat(model));
