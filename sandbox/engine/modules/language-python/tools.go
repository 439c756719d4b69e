//go:build tools

// Package tools keeps Pulumi's Python language host among this module's requirements; it is built by its own package path.
package tools

import _ "github.com/pulumi/pulumi/sdk/python/cmd/pulumi-language-python/v3"
