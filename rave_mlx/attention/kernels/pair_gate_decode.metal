// A few queries over many keys: one threadgroup serves up to RT rows of one KV head, so K and V are read once for all
// of its query heads. Rows are query-major: row = query * (heads per KV head) + head.
//
// Template  T, FU, F, TO (dtypes of q k v, of gu, of gv, of out), D head width, R gate width, RT rows,
//           LPK lanes per key, NSG simdgroups, PHI squash, QG quantization group, NM key kinds
// Defines   GATE, RAW, MASK, MASS (0 or 1), BITS (0: plain K and V; 4 or 8: affine)
// Grid      x = B * Hk threadgroups of NSG * 32 threads, y = row sets, z = S splits of the keys
// Inputs    q (B,H,Lq,D)  k, v (B,Hk,Lk,D) or packed, with ks kb vs vb  gu (B,Hs,Lq,R)  gv (B,Gs,Lk,R)
//           slots (Hk) row of gv or -1  mask (B,H,Lq,Lk)  kinds (B,Lk)  dims {causal, window, first, last}
//           consts {scale * log2 e, gate_in, gate_out, epsilon}
// With RAW  instead of gu: gq (B,Hs,Lq,D) queries before rotation, gp (Hs,D,R) and go (Hs,1,R): gu = gq / rms(gq) gp + go
// Outputs   out (B,H,Lq,S,D)  lse (B,H,Lq,S) natural  mass (B,H,Lq,S,NM): each normalised within its split
  constexpr int NK = 32 / LPK;  // keys a simdgroup handles at once
  constexpr int DP = D / LPK;   // head elements of a lane
  const int lane = int(thread_index_in_simdgroup);
  const int sg = int(simdgroup_index_in_threadgroup);
  const int sub = lane / LPK;
  const int li = lane % LPK;
  const int HQ = q_shape[1], LQ = q_shape[2], HKV = k_shape[1], LK = k_shape[2];
  const int G = HQ / HKV;
  const int b = int(threadgroup_position_in_grid.x) / HKV;
  const int kvh = int(threadgroup_position_in_grid.x) % HKV;
  const int row0 = int(threadgroup_position_in_grid.y) * RT;
  const int split = int(threadgroup_position_in_grid.z);
  const int S = int(threadgroups_per_grid.z);
  const int window = dims[1];

  float qr[RT][DP], o[RT][DP], m[RT], l[RT];
  int last[RT], first[RT];
  int low = LK, high = 0;
  EACH(r, RT) {
    const int i = min((row0 + r) / G, LQ - 1);
    const int h = kvh * G + (row0 + r) % G;
    const int position = LK - LQ + i;
    last[r] = (row0 + r) >= G * LQ ? -1 : (dims[0] != 0 ? position : LK - 1);
    first[r] = window > 0 ? max(position - window + 1, 0) : 0;
    high = max(high, last[r] + 1);
    low = last[r] < 0 ? low : min(low, first[r]);
    load_row<DP>(qr[r], q + b * q_strides[0] + h * q_strides[1] + i * q_strides[2] + li * DP * q_strides[3],
                 q_strides[3]);
    EACH(e, DP) {
      qr[r][e] *= consts[0];
      o[r][e] = 0.0f;
    }
    m[r] = LOWEST;
    l[r] = 0.0f;
  }
#if MASS
  float part[RT][NM];
  EACH(r, RT)
    EACH(n, NM) part[r][n] = 0.0f;
#endif
#if GATE
  constexpr int RP = (R + LPK - 1) / LPK;  // gate features of a lane
  const int slot = slots[kvh];
  const bool has_features = slot >= 0 && li * RP < R;
  float ur[RT][RP];
#if RAW
  // The keys that a simdgroup would handle at once are features here: one round for 32 of them with 8 simdgroups.
  threadgroup float group_u[RT * R];
  EACH(r, RT) {
    const int i = min((row0 + r) / G, LQ - 1);
    const int h = max(slot, 0) * G + (row0 + r) % G;
    float x[DP], squares = 0.0f;
    load_row<DP>(x, gq + b * gq_strides[0] + h * gq_strides[1] + i * gq_strides[2] + li * DP * gq_strides[3],
                 gq_strides[3]);
    EACH(e, DP) squares += x[e] * x[e];
    UNROLL
    for (int s = 1; s < LPK; s *= 2) squares += simd_shuffle_xor(squares, ushort(s));
    const float inverse = fast::rsqrt(squares / float(D) + consts[3]);
    for (int n0 = sg * NK; n0 < R; n0 += NSG * NK) {
      const int n = min(n0 + sub, R - 1);
      float column[DP], y = 0.0f;
      load_row<DP>(column, gp + h * gp_strides[0] + li * DP * gp_strides[1] + n * gp_strides[2], gp_strides[1]);
      EACH(e, DP) y += x[e] * column[e];
      UNROLL
      for (int s = 1; s < LPK; s *= 2) y += simd_shuffle_xor(y, ushort(s));
      if (li == 0 && n0 + sub < R) group_u[r * R + n] = y * inverse + go[h * go_strides[0] + n * go_strides[2]];
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
#endif
  EACH(r, RT) {
    EACH(e, RP) ur[r][e] = 0.0f;
    if (has_features) {
#if RAW
      EACH(e, RP) ur[r][e] = group_u[r * R + li * RP + e] * consts[1];
#else
      const int i = min((row0 + r) / G, LQ - 1);
      load_row<RP>(ur[r],
                   gu + b * gu_strides[0] + (slot * G + (row0 + r) % G) * gu_strides[1] + i * gu_strides[2] +
                       li * RP * gu_strides[3],
                   gu_strides[3]);
      EACH(e, RP) ur[r][e] *= consts[1];
#endif
    }
  }
#endif

  // Splits share out the keys that a query of this call can see at all.
  const int start = window > 0 ? max(LK - LQ - window + 1, 0) : 0;
  const int share = (LK - start + S - 1) / S;
  const int k0 = max(start + split * share, low);
  const int k1 = min(min(start + (split + 1) * share, LK), high);
  for (int j0 = k0 + sg * NK; j0 < k1; j0 += NSG * NK) {  // the same trip count in all lanes of a simdgroup
    const bool inside = j0 + sub < k1;
    const int j = inside ? j0 + sub : k1 - 1;
    float kr[DP];
#if BITS
    EACH(e, DP) {
      const int d = li * DP + e;
      const uint word = k[b * k_strides[0] + kvh * k_strides[1] + j * k_strides[2] + d * BITS / 32 * k_strides[3]];
      const int64_t at = b * ks_strides[0] + kvh * ks_strides[1] + j * ks_strides[2] + d / QG * ks_strides[3];
      const int64_t bt = b * kb_strides[0] + kvh * kb_strides[1] + j * kb_strides[2] + d / QG * kb_strides[3];
      kr[e] = float((word >> (d * BITS % 32)) & ((1u << BITS) - 1u)) * float(ks[at]) + float(kb[bt]);
    }
#else
    load_row<DP>(kr, k + b * k_strides[0] + kvh * k_strides[1] + j * k_strides[2] + li * DP * k_strides[3],
                 k_strides[3]);
#endif
#if GATE
    const bool near_image = slot >= 0 && j0 < dims[3] && j0 + NK > dims[2];  // uniform over the simdgroup
    float gr[RP];
    EACH(e, RP) gr[e] = 0.0f;
    if (near_image && has_features)
      load_row<RP>(gr, gv + b * gv_strides[0] + slot * gv_strides[1] + j * gv_strides[2] + li * RP * gv_strides[3],
                   gv_strides[3]);
#endif
    float p[RT], f[RT];
    EACH(r, RT) {
      float s = 0.0f;
      EACH(e, DP) s += qr[r][e] * kr[e];
      UNROLL
      for (int x = 1; x < LPK; x *= 2) s += simd_shuffle_xor(s, ushort(x));
#if GATE
      if (near_image) {
        float y = 0.0f;
        EACH(e, RP) y += ur[r][e] * gr[e];
        UNROLL
        for (int x = 1; x < LPK; x *= 2) y += simd_shuffle_xor(y, ushort(x));
        s += squash<PHI>(y, consts[2]);
      }
#endif
      bool seen = inside && j >= first[r] && j <= last[r];
#if MASK
      const int i = min((row0 + r) / G, LQ - 1);
      const int h = kvh * G + (row0 + r) % G;
      seen = seen && mask[b * mask_strides[0] + h * mask_strides[1] + i * mask_strides[2] + j * mask_strides[3]];
#endif
      const float top = max(m[r], seen ? s : LOWEST);
      f[r] = fast::exp2(m[r] - top);
      p[r] = seen ? fast::exp2(s - top) : 0.0f;
      m[r] = top;
      l[r] = l[r] * f[r] + p[r];
#if MASS
      const int kind = int(kinds[b * kinds_strides[0] + j * kinds_strides[1]]);
      EACH(n, NM) part[r][n] = part[r][n] * f[r] + (kind == n ? p[r] : 0.0f);
#endif
    }
    float vr[DP];
#if BITS
    EACH(e, DP) {
      const int d = li * DP + e;
      const uint word = v[b * v_strides[0] + kvh * v_strides[1] + j * v_strides[2] + d * BITS / 32 * v_strides[3]];
      const int64_t at = b * vs_strides[0] + kvh * vs_strides[1] + j * vs_strides[2] + d / QG * vs_strides[3];
      const int64_t bt = b * vb_strides[0] + kvh * vb_strides[1] + j * vb_strides[2] + d / QG * vb_strides[3];
      vr[e] = float((word >> (d * BITS % 32)) & ((1u << BITS) - 1u)) * float(vs[at]) + float(vb[bt]);
    }
#else
    load_row<DP>(vr, v + b * v_strides[0] + kvh * v_strides[1] + j * v_strides[2] + li * DP * v_strides[3],
                 v_strides[3]);
#endif
    EACH(r, RT)
      EACH(e, DP) o[r][e] = o[r][e] * f[r] + p[r] * vr[e];
  }

  // The NK keys of a simdgroup.
  EACH(r, RT) {
    UNROLL
    for (int x = LPK; x < 32; x *= 2) {
      const float other = simd_shuffle_xor(m[r], ushort(x));
      const float top = max(m[r], other);
      const float mine = fast::exp2(m[r] - top), theirs = fast::exp2(other - top);
      l[r] = l[r] * mine + simd_shuffle_xor(l[r], ushort(x)) * theirs;
      EACH(e, DP) o[r][e] = o[r][e] * mine + simd_shuffle_xor(o[r][e], ushort(x)) * theirs;
#if MASS
      EACH(n, NM) part[r][n] = part[r][n] * mine + simd_shuffle_xor(part[r][n], ushort(x)) * theirs;
#endif
      m[r] = top;
    }
  }

  // The simdgroups, one row at a time.
  threadgroup float group_o[NSG * D];
  threadgroup float group_m[NSG];
  threadgroup float group_l[NSG];
#if MASS
  threadgroup float group_part[NSG * NM];
#endif
  const int tid = int(thread_position_in_threadgroup.x);
  EACH(r, RT) {
    if (sub == 0) {
      EACH(e, DP) group_o[sg * D + li * DP + e] = o[r][e];
      if (li == 0) {
        group_m[sg] = m[r];
        group_l[sg] = l[r];
#if MASS
        EACH(n, NM) group_part[sg * NM + n] = part[r][n];
#endif
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float top = group_m[0];
    for (int w = 1; w < NSG; w++) top = max(top, group_m[w]);
    float total = 0.0f;
    for (int w = 0; w < NSG; w++) total += group_l[w] * fast::exp2(group_m[w] - top);
    const float inverse = total != 0.0f ? 1.0f / total : 0.0f;
    const int i = (row0 + r) / G;
    const int64_t at = (int64_t((b * HQ + kvh * G + (row0 + r) % G)) * LQ + i) * S + split;
    if (i < LQ) {
      for (int d = tid; d < D; d += NSG * 32) {
        float a = 0.0f;
        for (int w = 0; w < NSG; w++) a += group_o[w * D + d] * fast::exp2(group_m[w] - top);
        out[at * D + d] = TO(a * inverse);
      }
      if (tid == 0) lse[at] = total != 0.0f ? (top + fast::log2(total)) * LN2 : -INFINITY;
#if MASS
      for (int n = tid; n < NM; n += NSG * 32) {
        float a = 0.0f;
        for (int w = 0; w < NSG; w++) a += group_part[w * NM + n] * fast::exp2(group_m[w] - top);
        mass[at * NM + n] = a * inverse;
      }
#endif
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
