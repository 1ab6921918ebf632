// How a driver tells what its client did: a line of JSON for each thing, with a value or an error.

export async function tell(doings) {
  for (const [name, act] of Object.entries(doings)) {
    try {
      console.log(JSON.stringify({ name, got: (await act()) ?? null }));
    } catch (error) {
      const last = error?.lastError ?? error;
      const body = last?.responseBody ?? last?.cause?.message ?? "";
      console.log(JSON.stringify({ name, error: `${error?.stack ?? error}\n${body}` }));
    }
  }
}
