// Writes what the provider embeds: `generate schema --out DIR` leaves schema.json there and bridge-metadata.json here.
package main

import (
	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/pf/tfgen"

	"mlflow-stack.local/engine/provider-random/random"
)

func main() {
	tfgen.Main(random.Name, random.Info([]byte("{}")))
}
