// Checks Kubernetes' custom resources against the definitions that npm has of them.
// node custom_resources.mjs FILE: a list of objects as JSON; a line for each that is at fault.
import { readFileSync } from "node:fs";

const PACKAGES = {
  "gateway.networking.k8s.io": "gateway-api",
  "keda.sh": "keda",
  "monitoring.coreos.com": "prometheus-operator",
};

for (const one of JSON.parse(readFileSync(process.argv[2], "utf8"))) {
  const [group, version] = one.apiVersion.split("/");
  const path = `@kubernetes-models/${PACKAGES[group]}/${group}/${version}/${one.kind}`;
  const { [one.kind]: Definition } = await import(path);
  try {
    new Definition(one).validate();
  } catch (error) {
    console.log(JSON.stringify({ kind: one.kind, fault: error.message }));
  }
}
