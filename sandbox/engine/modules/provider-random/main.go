// The random resource provider for Pulumi; the build puts both embedded files here.
package main

import (
	"context"
	_ "embed"

	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/pf/tfbridge"

	"mlflow-stack.local/engine/provider-random/random"
)

//go:embed schema.json
var schema []byte

//go:embed bridge-metadata.json
var metadata []byte

func main() {
	tfbridge.Main(context.Background(), random.Name, random.Info(metadata), tfbridge.ProviderMetadata{PackageSchema: schema})
}
