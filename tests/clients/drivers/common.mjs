// What the JavaScript drivers share: the environment, the weather tool, one JSON line at the end.

export const env = process.env;
export const baseUrl = env.BASE_URL.replace(/\/$/, "");
export const openaiUrl = `${baseUrl}/v1`;
export const apiKey = env.API_KEY;
export const model = env.MODEL;
const directive = env.DIRECTIVE ?? "";
// Only the tool knows this number; it must come back in the final text.
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

// What is asked for in the loop scenarios at most, where a framework sets no limit of its own.
export const roundsMax = 40;

// What is answered; where the session was stopped, to the second try, after the link was followed, as a person would.
export async function insisting(ask) {
  try {
    return await ask();
  } catch (error) {
    const link = env.RESUME && /To resume it: (https?:\/\/[\w:./?=&%~-]+)/.exec(chain(error));
    if (!link) throw error;
    must((await fetch(link[1])).ok, "the link does not work");
    return ask();
  }
}

export function must(condition, message) {
  if (!condition) throw new Error(message);
}

export function cityOf(found) {
  must(typeof found?.name === "string" && Number.isInteger(found?.inhabitants), `no city but ${JSON.stringify(found)}`);
  return JSON.stringify(found);
}

export async function drive(scenarios) {
  const name = env.SCENARIO;
  // Where a framework goes round by itself, a loop is nothing but a tool that is called for ever.
  const scenario = scenarios[name] ?? scenarios[{ refusal: "text", loop: "tool", stream_loop: "stream_tool" }[name]];
  say(scenario ? await outcome(name, scenario) : { ok: null, detail: "not offered by this client" });
}

async function outcome(name, scenario) {
  let text;
  try {
    text = String(await scenario());
  } catch (error) {
    const shown = chain(error);
    if (name !== "refusal") return { ok: false, text: "", detail: shown.slice(0, 3000), trace: String(error?.stack).slice(0, 3000) };
    const met = shown.toLowerCase().includes((env.REFUSAL ?? "budget").toLowerCase());
    return { ok: met, text: "", detail: met ? "" : "message not shown", error: shown.slice(0, 1000) };
  }
  if (name === "refusal") return { ok: false, text, detail: "no error was raised" };
  const wanted = ["tool", "stream_tool"].includes(name) ? PROOF : (env.WANTED ?? "");
  const ok = text !== "" && text.includes(wanted);
  return { ok, text: text.slice(0, 2000), detail: ok ? "" : `no '${wanted}' in the answer` };
}

function chain(error) {
  const shown = [];
  for (let at = error; at && shown.length < 6; at = at.cause ?? at.lastError) {
    shown.push(`${at.name}: ${at.message} ${at.responseBody ?? ""}`);
  }
  return shown.join(" <- ");
}

function say(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`, () => process.exit(0));
}
