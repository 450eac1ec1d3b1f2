// Merge the splits of a row: parts that are each normalised, with their log-sum-exp.
//
// Template  TO dtype of out, D head width, NM key kinds.   Define  MASS
// Grid      x = D threads, y = rows
// Inputs    parts (rows,S,D) float  lses (rows,S) float  masses (rows,S,NM) float
// Outputs   out (rows,D)  lse (rows)  mass (rows,NM)
  const int64_t row = thread_position_in_grid.y;
  const int d = int(thread_position_in_grid.x);
  const int S = parts_shape[1];
  float top = LOWEST;
  for (int s = 0; s < S; s++) top = max(top, lses[row * S + s]);
  float total = 0.0f, sum = 0.0f;
  for (int s = 0; s < S; s++) {
    const float weight = fast::exp2((lses[row * S + s] - top) * M_LOG2E_F);
    total += weight;
    sum += weight * parts[(row * S + s) * D + d];
  }
  const float inverse = total != 0.0f ? 1.0f / total : 0.0f;
  out[row * D + d] = TO(sum * inverse);
  if (d == 0) lse[row] = total != 0.0f ? top + fast::log2(total) * LN2 : -INFINITY;
#if MASS
  if (d < NM) {
    float a = 0.0f;
    for (int s = 0; s < S; s++) a += fast::exp2((lses[row * S + s] - top) * M_LOG2E_F) * masses[(row * S + s) * NM + d];
    mass[row * NM + d] = a * inverse;
  }
#endif
