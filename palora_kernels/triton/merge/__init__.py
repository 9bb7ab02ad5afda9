"""The weights of M rays in one launch, and the way back from their gradients.

In come W, the factors and lam (M, T); out goes K_m = W + sum_t lam[m, t] D_t, (M, O, kh, kw, C/groups). A linear
layer's weight is a kernel with one tap.

- `merge` forms the weights, and pulls their gradients back with products of the library.
- `pull` pulls the gradients of few columns back in one reading.
"""
