// Package shim hands out the provider's constructor, which is internal: only a module below its path may import it.
package shim

import (
	"github.com/hashicorp/terraform-plugin-framework/provider"
	internal "github.com/terraform-providers/terraform-provider-random/internal/provider"
)

// New returns the Terraform provider "random".
func New() provider.Provider {
	return internal.New()
}
