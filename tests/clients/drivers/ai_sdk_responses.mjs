// Vercel AI SDK, @ai-sdk/openai as it comes (Responses).

import { createOpenAI } from "@ai-sdk/openai";
import { driveAiSdk } from "./ai_sdk_common.mjs";
import { apiKey, model, openaiUrl } from "./common.mjs";

await driveAiSdk(createOpenAI({ baseURL: openaiUrl, apiKey })(model));
