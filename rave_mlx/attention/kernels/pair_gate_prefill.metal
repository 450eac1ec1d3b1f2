// Many queries: tiles of 8 * NSG rows by BK keys on 8x8 simdgroup matrices. Rows are query-major over the heads of one
// KV head (row = query * heads + head), so few queries fill a tile too, and K and V serve every head in it.
//
// Template  T, FU, F, TO (dtypes of q k v, of gu, of gv, of out), D head width, R gate width, BK keys a block,
//           NSG simdgroups, PHI squash, NM key kinds
// Defines   GATE, MASK, MASS (0 or 1)
// Grid      x = row tiles of NSG * 32 threads, y = Hk, z = B * S, S splits of the keys
// Inputs    q (B,H,Lq,D)  k, v (B,Hk,Lk,D)  gu (B,Hs,Lq,R)  gv (B,Gs,Lk,R)  slots (Hk) row of gv or -1
//           mask (B,H,Lq,Lk)  kinds (B,Lk)  dims {causal, window, first, last}  consts {scale * log2 e, gate_in, gate_out}
// Outputs   out (B,H,Lq,S,D)  lse (B,H,Lq,S) natural  mass (B,H,Lq,S,NM): each normalised within its split
  constexpr int BQ = 8 * NSG;
  constexpr int TK = BK / 8, TD = D / 8;
  constexpr int VEC = 16 / int(sizeof(T));
  constexpr int LD = D + VEC;  // 16 bytes of padding a row keep neighbouring rows in different banks
  threadgroup T Qs[BQ * LD];
  threadgroup T KVs[BK * LD];
#if GATE
  constexpr int TR = R / 8;
  constexpr int GVEC = 16 / int(sizeof(F));
  constexpr int LR = R + GVEC;
  threadgroup F Gs[BK * LR];
#endif
  const int tid = int(thread_position_in_threadgroup.x);
  const int lane = int(thread_index_in_simdgroup);
  const int sg = int(simdgroup_index_in_threadgroup);
  const int fm = ((lane / 4) & 4) + (lane / 2) % 4;      // row of this lane in an 8x8 fragment
  const int fn = ((lane / 4) & 2) * 2 + (lane % 2) * 2;  // its columns: fn and fn + 1
  const int HQ = q_shape[1], LQ = q_shape[2], HKV = k_shape[1], LK = k_shape[2];
  const int G = HQ / HKV, offset = LK - LQ, window = dims[1];
  const int S = int(threadgroups_per_grid.z) / q_shape[0];
  const int b = int(threadgroup_position_in_grid.z) / S, split = int(threadgroup_position_in_grid.z) % S;
  const int kvh = int(threadgroup_position_in_grid.y);
  // The last rows see the most keys under a causal mask: they start first.
  const int row0 = (int(threadgroups_per_grid.x) - 1 - int(threadgroup_position_in_grid.x)) * BQ;
  const int row = row0 + sg * 8 + fm;
  const int query = row / G, head = kvh * G + row % G;
  const bool live = query < LQ;
  const int last = !live ? -1 : (dims[0] != 0 ? query + offset : LK - 1);
  const int first = window > 0 ? max(query + offset - window + 1, 0) : 0;

  for (int c = tid; c < BQ * (D / VEC); c += NSG * 32) {
    const int r = c / (D / VEC), d = c % (D / VEC) * VEC;
    const int i = (row0 + r) / G, h = kvh * G + (row0 + r) % G;
    Chunk<T, VEC> chunk;
    EACH(e, VEC) chunk.item[e] = T(0.0f);
    if (i < LQ)
      chunk =
          load_chunk<VEC>(q + b * q_strides[0] + h * q_strides[1] + i * q_strides[2] + d * q_strides[3], q_strides[3]);
    *(SHARED_POINTER(Chunk<T, VEC>))(Qs + r * LD + d) = chunk;
  }
#if GATE
  const int slot = slots[kvh];
  simdgroup_matrix<float, 8, 8> U[TR];
  EACH(t, TR) {
    EACH(e, 2) {
      float x = 0.0f;
      if (live && slot >= 0)
        x = float(gu[b * gu_strides[0] + (slot * G + row % G) * gu_strides[1] + query * gu_strides[2] +
                     (t * 8 + fn + e) * gu_strides[3]]);
      U[t].thread_elements()[e] = x * consts[1];
    }
  }
#endif
#if MASS
  float part[NM];
  EACH(n, NM) part[n] = 0.0f;
#endif
  simdgroup_matrix<float, 8, 8> O[TD];
  EACH(t, TD) O[t] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  float m = LOWEST, l = 0.0f;  // l and part are sums over this lane's own columns until the end

  // Splits share out the blocks that a query of this call can see at all.
  const int start = window > 0 ? max(offset - window + 1, 0) / BK * BK : 0;
  const int share = ((LK - start + S - 1) / S + BK - 1) / BK * BK;
  const int top_query = min((row0 + BQ - 1) / G, LQ - 1);
  const int stop = min(dims[0] != 0 ? top_query + offset + 1 : LK, min(start + (split + 1) * share, LK));
  const int reach = window > 0 ? max(row0 / G + offset - window + 1, 0) / BK * BK : 0;
  for (int k0 = max(start + split * share, reach); k0 < stop; k0 += BK) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (int c = tid; c < BK * (D / VEC); c += NSG * 32) {
      const int r = c / (D / VEC), d = c % (D / VEC) * VEC;
      Chunk<T, VEC> chunk;
      EACH(e, VEC) chunk.item[e] = T(0.0f);
      if (k0 + r < LK)
        chunk = load_chunk<VEC>(k + b * k_strides[0] + kvh * k_strides[1] + (k0 + r) * k_strides[2] + d * k_strides[3],
                                k_strides[3]);
      *(SHARED_POINTER(Chunk<T, VEC>))(KVs + r * LD + d) = chunk;
    }
#if GATE
    const bool near_image = slot >= 0 && k0 < dims[3] && k0 + BK > dims[2];  // uniform over the threadgroup
    if (near_image) {
      for (int c = tid; c < BK * (R / GVEC); c += NSG * 32) {
        const int r = c / (R / GVEC), d = c % (R / GVEC) * GVEC;
        Chunk<F, GVEC> chunk;
        EACH(e, GVEC) chunk.item[e] = F(0.0f);
        if (k0 + r < LK)
          chunk = load_chunk<GVEC>(
              gv + b * gv_strides[0] + slot * gv_strides[1] + (k0 + r) * gv_strides[2] + d * gv_strides[3],
              gv_strides[3]);
        *(SHARED_POINTER(Chunk<F, GVEC>))(Gs + r * LR + d) = chunk;
      }
    }
#endif
    threadgroup_barrier(mem_flags::mem_threadgroup);
    int visible = 0;  // one bit for each of this lane's scores
    EACH(t, TK) {
      EACH(e, 2) {
        const int j = k0 + t * 8 + fn + e;
        bool seen = j < stop && j >= first && j <= last;
#if MASK
        seen =
            seen && mask[b * mask_strides[0] + head * mask_strides[1] + query * mask_strides[2] + j * mask_strides[3]];
#endif
        visible |= seen ? 1 << (t * 2 + e) : 0;
      }
    }
    const bool busy = simd_any(visible != 0);  // a boolean mask hides whole blocks, as causal order does
    simdgroup_matrix<float, 8, 8> P[TK];
    float f = 1.0f;
    if (busy) {
      EACH(t, TK) P[t] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
      EACH(dd, TD) {
        simdgroup_matrix<float, 8, 8> A, B;
        EACH(e, 2) A.thread_elements()[e] = float(Qs[(sg * 8 + fm) * LD + dd * 8 + fn + e]);
        EACH(t, TK) {
          EACH(e, 2) B.thread_elements()[e] = float(KVs[(t * 8 + fn + e) * LD + dd * 8 + fm]);
          simdgroup_multiply_accumulate(P[t], A, B, P[t]);
        }
      }
      float top = m;
      EACH(t, TK) {
        EACH(e, 2) P[t].thread_elements()[e] *= consts[0];
#if GATE
        if (near_image) {
          simdgroup_matrix<float, 8, 8> X = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
          EACH(s, TR) {
            simdgroup_matrix<float, 8, 8> W;
            EACH(e, 2) W.thread_elements()[e] = float(Gs[(t * 8 + fn + e) * LR + s * 8 + fm]);
            simdgroup_multiply_accumulate(X, U[s], W, X);
          }
          EACH(e, 2) P[t].thread_elements()[e] += squash<PHI>(X.thread_elements()[e], consts[2]);
        }
#endif
        EACH(e, 2) {
          const float s = ((visible >> (t * 2 + e)) & 1) != 0 ? P[t].thread_elements()[e] : LOWEST;
          P[t].thread_elements()[e] = s;
          top = max(top, s);
        }
      }
      top = max(top, simd_shuffle_xor(top, ushort(1)));  // the lanes of a row differ in bits 0 and 3
      top = max(top, simd_shuffle_xor(top, ushort(8)));
      f = fast::exp2(m - top);
      m = top;
      l *= f;
#if MASS
      EACH(n, NM) part[n] *= f;
#endif
      EACH(t, TK) {
        EACH(e, 2) {
          // The mark of the key and not its score: a NaN among the scores has to reach the output.
          const bool seen = ((visible >> (t * 2 + e)) & 1) != 0;
          const float p = seen ? fast::exp2(P[t].thread_elements()[e] - top) : 0.0f;
          P[t].thread_elements()[e] = p;
          l += p;
#if MASS
          const int j = min(k0 + t * 8 + fn + e, LK - 1);
          const int kind = int(kinds[b * kinds_strides[0] + j * kinds_strides[1]]);
          EACH(n, NM) part[n] += kind == n ? p : 0.0f;
#endif
        }
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (int c = tid; c < BK * (D / VEC); c += NSG * 32) {
      const int r = c / (D / VEC), d = c % (D / VEC) * VEC;
      Chunk<T, VEC> chunk;
      EACH(e, VEC) chunk.item[e] = T(0.0f);
      if (k0 + r < LK)
        chunk = load_chunk<VEC>(v + b * v_strides[0] + kvh * v_strides[1] + (k0 + r) * v_strides[2] + d * v_strides[3],
                                v_strides[3]);
      *(SHARED_POINTER(Chunk<T, VEC>))(KVs + r * LD + d) = chunk;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (busy) {
      EACH(dd, TD) {
        EACH(e, 2) O[dd].thread_elements()[e] *= f;
        EACH(t, TK) {
          simdgroup_matrix<float, 8, 8> B;
          EACH(e, 2) B.thread_elements()[e] = float(KVs[(t * 8 + fm) * LD + dd * 8 + fn + e]);
          simdgroup_multiply_accumulate(O[dd], P[t], B, O[dd]);
        }
      }
    }
  }

  l += simd_shuffle_xor(l, ushort(1));
  l += simd_shuffle_xor(l, ushort(8));
  const float inverse = l != 0.0f ? 1.0f / l : 0.0f;
  const int64_t at = (int64_t(b * HQ + head) * LQ + query) * S + split;
  if (live) {
    EACH(dd, TD)
      EACH(e, 2) out[at * D + dd * 8 + fn + e] = TO(O[dd].thread_elements()[e] * inverse);
    if (fn == 0) lse[at] = l != 0.0f ? (m + fast::log2(l)) * LN2 : -INFINITY;
  }
#if MASS
  EACH(n, NM) {
    part[n] += simd_shuffle_xor(part[n], ushort(1));
    part[n] += simd_shuffle_xor(part[n], ushort(8));
    if (live && fn == 0) mass[at * NM + n] = part[n] * inverse;
  }
#endif
