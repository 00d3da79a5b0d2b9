// Vercel AI SDK, @ai-sdk/anthropic (Messages).

import { createAnthropic } from "@ai-sdk/anthropic";
import { driveAiSdk } from "./ai_sdk_common.mjs";
import { apiKey, model, openaiUrl } from "./common.mjs";

await driveAiSdk(createAnthropic({ baseURL: openaiUrl, apiKey })(model));
