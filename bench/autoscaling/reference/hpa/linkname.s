// A function without a body, as go:linkname has it, wants an assembly file in its package.
