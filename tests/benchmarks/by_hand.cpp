// The main job's step, 20-5-1 with SGD and CBP, written by hand for it alone; it starts with fcbp's prelude, whose
// vectors it uses. What a general program cannot know is made use of: powers of the decay rate are kept rather than
// computed, and nothing is stored that a step does not need.
constexpr int INPUTS = 20, HIDDEN = 5;

// The next of a sequence of numbers between -bound and bound.
static F draw(UI &key, float bound) {
  key ^= key << 13, key ^= key >> 17, key ^= key << 5;
  return (__builtin_convertvector((I)(key >> 8), F) * 0x1p-23f - 1.0f) * bound;
}

extern "C" void run(
    int64 members, int64 steps, const float *x, const float *y, const int64 *strides, const float *w1, const float *w2,
    const float *const *numbers, float *losses, int32_t *replaced) {
  for (int64 first = 0; first < members; first += LANES) {
    const int lanes = (int)std::min((int64)LANES, members - first);
    int64 one[LANES], inputs[LANES], targets[LANES], incoming[LANES], outgoing[LANES];
    offsets(one, first, lanes, 1), offsets(inputs, first, lanes, strides[1]), offsets(targets, first, lanes, strides[3]);
    offsets(incoming, first, lanes, HIDDEN * INPUTS), offsets(outgoing, first, lanes, HIDDEN);
    F w[HIDDEN][INPUTS], b[HIDDEN] = {}, v[HIDDEN], c = {};
    load(&w[0][0], w1, incoming, HIDDEN * INPUTS), load(v, w2, outgoing, HIDDEN);
    F step_size, rate, threshold, decay;
    load(&step_size, numbers[0], one, 1), load(&rate, numbers[1], one, 1);
    load(&threshold, numbers[2], one, 1), load(&decay, numbers[3], one, 1);
    F age[HIDDEN] = {}, utility[HIDDEN] = {}, mean[HIDDEN] = {}, power[HIDDEN], owed = {};
    for (F &p : power) p = to_F(1.0f);
    UI key;
    EACH key[l] = (uint32_t)(first + l + 1) * 2654435761u;
    for (int64 t = 0; t < steps; t++) {
      F in[INPUTS], target;
      EACH __builtin_prefetch(x + (t + 4) * strides[0] + inputs[l]);
      EACH __builtin_prefetch(x + (t + 4) * strides[0] + inputs[l] + 16);
      load(in, x + t * strides[0], inputs, INPUTS), load(&target, y + t * strides[2], targets, 1);
      F h[HIDDEN], out = c;
      for (int j = 0; j < HIDDEN; j++) {
        F even = b[j], odd = {};
        for (int i = 0; i < INPUTS; i += 2)
          even = multiply_add(w[j][i], in[i], even), odd = multiply_add(w[j][i + 1], in[i + 1], odd);
        h[j] = even + odd;
        h[j] = h[j] > 0 ? h[j] : (F){};
        out = multiply_add(v[j], h[j], out);
      }
      const F error = out - target, loss = error * error, pull = -2 * step_size * error;
      c += pull;
      F eligible = {}, corrected[HIDDEN];
      for (int j = 0; j < HIDDEN; j++) {
        const F down = h[j] > 0 ? pull * v[j] : (F){};
        v[j] = multiply_add(pull, h[j], v[j]);
        b[j] += down;
        F even = {}, odd = {};
        for (int i = 0; i < INPUTS; i += 2) {
          w[j][i] = multiply_add(down, in[i], w[j][i]), w[j][i + 1] = multiply_add(down, in[i + 1], w[j][i + 1]);
          even += v_abs(w[j][i]), odd += v_abs(w[j][i + 1]);
        }
        age[j] += 1, power[j] *= decay;
        const F correction = 1 / (1 - power[j]);
        mean[j] = multiply_add(decay, mean[j] - h[j], h[j]);
        const F contribution = v_abs(h[j] - mean[j] * correction) * v_abs(v[j]) * INPUTS / (even + odd);
        utility[j] = multiply_add(decay, utility[j] - contribution, contribution);
        const auto mature = age[j] > threshold;
        eligible += mature ? to_F(1.0f) : (F){};
        corrected[j] = mature ? utility[j] * correction : to_F(std::numeric_limits<float>::infinity());
      }
      owed = multiply_add(rate, eligible, owed);
      const M due = {(I)(owed >= 1)};
      if (__builtin_expect(some_lane(due), 0)) {
        I lowest = {};
        F least = corrected[0];
        for (int j = 1; j < HIDDEN; j++)
          lowest = corrected[j] < least ? to_I(j) : lowest, least = corrected[j] < least ? corrected[j] : least;
        for (int j = 0; j < HIDDEN; j++) {
          const I chosen = due.v & (lowest == j);
          for (int i = 0; i < INPUTS; i++) w[j][i] = chosen ? draw(key, 0.5477226f) : w[j][i];
          b[j] = chosen ? (F){} : b[j], v[j] = chosen ? (F){} : v[j], age[j] = chosen ? (F){} : age[j];
          utility[j] = chosen ? (F){} : utility[j], mean[j] = chosen ? (F){} : mean[j];
          power[j] = chosen ? to_F(1.0f) : power[j];
        }
        owed -= to_F(due);
      }
      const I number = to_I(due);
      store(losses + t * members, &loss, first, 1, lanes), store(replaced + t * members, &number, first, 1, lanes);
    }
  }
}
