//go:build tools

// Package tools names the command that this module builds, so that go.mod and go.sum keep what it needs.
package tools

import _ "github.com/coredns/coredns"
