// Package random describes how the Terraform provider "random" becomes the Pulumi provider of that name.
package random

import (
	pf "github.com/pulumi/pulumi-terraform-bridge/v3/pkg/pf/tfbridge"
	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfbridge"
	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfbridge/tokens"
	"github.com/terraform-providers/terraform-provider-random/shim"
)

// Name of the Pulumi package.
const Name = "random"

// Version is the one that the Python SDK asks for; set when linking.
var Version = "0.0.0"

// Info is the whole description. The metadata is empty (`{}`) when the schema is generated, later what that left.
func Info(metadata []byte) tfbridge.ProviderInfo {
	info := tfbridge.ProviderInfo{
		P:            pf.ShimProvider(shim.New()),
		Name:         Name,
		Version:      Version,
		MetadataInfo: tfbridge.NewProviderMetadata(metadata),
	}
	token := func(module, name string) (string, error) {
		return tokens.MakeStandard(Name)(module, "Random"+name)
	}
	info.MustComputeTokens(tokens.SingleModule("random_", "index", token))
	return info
}
