// Requests to the server that this page came from.

export class Refused extends Error {
  // status: of the response; 0: no response came. wait: seconds that the server asks for.
  constructor(status, message, wait = 0) {
    super(message);
    this.status = status;
    this.wait = wait;
  }

  // Whether the same request may succeed later.
  get passing() {
    return ![400, 401, 403, 409, 422].includes(this.status);
  }
}

let csrf = "";

export async function call(method, path, body, { keepalive = false } = {}) {
  const headers = { "x-rewardsmith": csrf };
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  let content;
  try {
    response = await fetch(path, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      keepalive,
      cache: "no-store",
      signal: AbortSignal.timeout(15000),
    });
    content = await response.json();
  } catch {
    throw new Refused(0, "No connection to the server.");
  }
  if (!response.ok) {
    throw new Refused(response.status, content.error ?? "", Number(response.headers.get("retry-after")) || 0);
  }
  if (content.csrf) csrf = content.csrf;
  return content;
}

export const after = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

// crypto.randomUUID is missing where a page comes over plain HTTP from another machine.
export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
