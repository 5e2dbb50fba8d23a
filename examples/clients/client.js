// Reads a credential, keeps it for a while, gives it back. BAO_ADDR, BAO_TOKEN; the path is the first argument.
const { BAO_ADDR, BAO_TOKEN } = process.env;

async function ask(method, path, body) {
  for (let attempt = 1; ; attempt++) {
    const response = await fetch(`${BAO_ADDR}/v1/${path}`, {
      method,
      headers: { "X-Vault-Token": BAO_TOKEN, "Content-Type": "application/json" },
      body: body && JSON.stringify(body),
    }).catch((error) => ({ status: 0, error }));
    if (response.status >= 200 && response.status < 300) {
      return response.status === 204 ? {} : response.json();
    }
    // A failover, a reload: once more is enough.
    if (attempt === 3 || (response.status >= 400 && response.status < 500)) {
      throw new Error(`${method} ${path}: ${response.status || response.error.message}`);
    }
    await new Promise((done) => setTimeout(done, 500 * attempt));
  }
}

async function main() {
  const read = await ask("GET", process.argv[2]);
  console.log(read.data.username);
  const renewed = await ask("POST", "sys/leases/renew", { lease_id: read.lease_id });
  if (!(renewed.lease_duration > 0)) throw new Error("not renewed");
  await ask("POST", "sys/leases/revoke", { lease_id: read.lease_id, sync: true });
}

main().catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
