// Vercel AI SDK, @ai-sdk/openai-compatible (chat completions).

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { driveAiSdk } from "./ai_sdk_common.mjs";
import { apiKey, model, openaiUrl } from "./common.mjs";

const provider = createOpenAICompatible({ name: "penstock", baseURL: openaiUrl, apiKey, includeUsage: true, supportsStructuredOutputs: true });
await driveAiSdk(provider(model));
