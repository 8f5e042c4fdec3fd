"""The operations of a Llama: what each computes, and the fused kernels that compute the same faster."""
