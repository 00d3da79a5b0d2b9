// Shared by the JavaScript drivers: environment, weather tool, report as one JSON line.

export const env = process.env;
export const baseUrl = env.BASE_URL.replace(/\/$/, "");
export const openaiUrl = `${baseUrl}/v1`;
export const apiKey = env.API_KEY;
export const model = env.MODEL;
const directive = env.DIRECTIVE ?? "";
// Only the tool returns this number; the final text must contain it.
const PROOF = "4711";
export const system = "You are a helpful assistant.";
export const greeting = `Say hello. ${directive}`.trim();
export const task = `What is the weather in Lisbon? Use the tool. ${directive}`.trim();
export const extract = `Extract the city: Lisbon has 545796 inhabitants. ${directive}`.trim();
export const look = `What is in this picture? ${directive}`.trim();
// A red square, 16 by 16 pixels.
export const png =
  "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAFklEQVR42mO4ICBAEmIY1TCqYfhqAABYoPABnlzdOQAAAABJRU5ErkJggg==";
export const weather = (city) => `Sunny in ${city}, station ${PROOF}`;
export const weatherSchema = {
  type: "object",
  properties: { city: { type: "string", description: "the city to look up" } },
  required: ["city"],
  additionalProperties: false,
};

// Most requests of a loop scenario, where a framework sets no limit of its own.
export const roundsMax = 40;

// Calls `ask`; where the session is stopped, resumes it by the approval link and calls again.
export async function withResume(ask) {
  try {
    return await ask();
  } catch (error) {
    const link = env.RESUME && /To resume it: (https?:\/\/[\w:./?=&%~-]+)/.exec(chain(error));
    if (!link) throw error;
    must((await fetch(link[1], { method: "POST" })).ok, "the approval link does not work");
    return ask();
  }
}

export function must(condition, message) {
  if (!condition) throw new Error(message);
}

export function cityOf(answer) {
  must(typeof answer?.name === "string" && Number.isInteger(answer?.inhabitants), `not a city: ${JSON.stringify(answer)}`);
  return JSON.stringify(answer);
}

export async function drive(scenarios) {
  const name = env.SCENARIO;
  // Where a framework repeats tool calls by itself, a loop is a tool scenario whose call never changes.
  const scenario = scenarios[name] ?? scenarios[{ refusal: "text", loop: "tool", stream_loop: "stream_tool" }[name]];
  report(scenario ? await outcome(name, scenario) : { ok: null, detail: "not offered by this client" });
}

async function outcome(name, scenario) {
  let text;
  try {
    text = String(await scenario());
  } catch (error) {
    const shown = chain(error);
    if (name !== "refusal") return { ok: false, text: "", detail: shown.slice(0, 3000), trace: String(error?.stack).slice(0, 3000) };
    const ok = shown.toLowerCase().includes((env.REFUSAL ?? "budget").toLowerCase());
    return { ok, text: "", detail: ok ? "" : "message not shown", error: shown.slice(0, 1000) };
  }
  if (name === "refusal") return { ok: false, text, detail: "no error was raised" };
  const expected = ["tool", "stream_tool"].includes(name) ? PROOF : (env.EXPECTED ?? "");
  const ok = text !== "" && text.includes(expected);
  return { ok, text: text.slice(0, 2000), detail: ok ? "" : `no '${expected}' in the answer` };
}

function chain(error) {
  const texts = [];
  for (let cause = error; cause && texts.length < 6; cause = cause.cause ?? cause.lastError) {
    texts.push(`${cause.name}: ${cause.message} ${cause.responseBody ?? ""}`);
  }
  return texts.join(" <- ");
}

function report(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`, () => process.exit(0));
}
