// Products of MLX's arrays with packed matrices.
#pragma once
#include "mlx/array.h"

namespace rave {

// x (..., width) in float32 times the transpose of a packed matrix, whose factors and shifts are read in the type they have:
// `mlx::core::quantized_matmul` would turn them into float32 first, every time.
mlx::core::array mixed_product(const mlx::core::array& x, const mlx::core::array& codes, const mlx::core::array& scales,
                               const mlx::core::array& biases, int bits, int group);

}  // namespace rave
