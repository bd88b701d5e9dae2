// ReLU and depthwise convolutions of several kernel sizes with 'same' padding on a CPU. The kernels, forward and
// backward, have the form that MindSpore's Custom operators of type "aot" call.
//
// The inputs (N, C_i, H, W) are taken as one tensor of all their channels. The weights (D_j, 1, K_j, K_j) convolve
// these channels one share after another. The work is a loop over planes; a plane is one channel of one image.
//
// A plane is copied, with its padding, into stride x stride phases. A phase is an image of every stride-th pixel, so
// that a convolution of any stride becomes one of stride 1. The rows of a phase are `pitch` apart, and so are the rows
// of the output. Then each tap of the kernel is one long product of a factor and a shifted phase, for all rows at
// once. The columns between the rows hold no result; they are left out when rows are copied back.
//
// A result does not depend on the number of threads, because no sum is shared by two threads.
#include <algorithm>
#include <cstdint>
#include <vector>

namespace {
constexpr int64_t kLanes = 8;
typedef float Lanes __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

inline Lanes &lanes(float *at) { return *reinterpret_cast<Lanes *>(at); }
inline const Lanes &lanes(const float *at) { return *reinterpret_cast<const Lanes *>(at); }
int64_t whole_lanes(int64_t size) { return (size + kLanes - 1) / kLanes * kLanes; }

template <int kBlocks>
void correlate_block(const float *in, const int64_t *offsets, const float *factors, int64_t taps, float *out) {
  Lanes sums[kBlocks] = {};
  for (int64_t tap = 0; tap < taps; ++tap)
    for (int block = 0; block < kBlocks; ++block)
      sums[block] += factors[tap] * lanes(in + offsets[tap] + block * kLanes);
  for (int block = 0; block < kBlocks; ++block) lanes(out + block * kLanes) = sums[block];
}

// out[i] = sum over taps of factors[tap] * in[offsets[tap] + i], for i < size, a multiple of kLanes
void correlate(const float *in, const int64_t *offsets, const float *factors, int64_t taps, float *out, int64_t size) {
  int64_t i = 0;
  for (; i + 8 * kLanes <= size; i += 8 * kLanes) correlate_block<8>(in + i, offsets, factors, taps, out + i);
  for (; i + 2 * kLanes <= size; i += 2 * kLanes) correlate_block<2>(in + i, offsets, factors, taps, out + i);
  for (; i < size; i += kLanes) correlate_block<1>(in + i, offsets, factors, taps, out + i);
}

template <int kTaps>
void dot_block(const float *in, const int64_t *offsets, const float *other, int64_t size, float *out) {
  Lanes sums[kTaps] = {};
  for (int64_t i = 0; i < size; i += kLanes)
    for (int tap = 0; tap < kTaps; ++tap) sums[tap] += lanes(other + i) * lanes(in + offsets[tap] + i);
  for (int tap = 0; tap < kTaps; ++tap)
    for (int64_t lane = 0; lane < kLanes; ++lane) out[tap] += sums[tap][lane];
}

// out[tap] += sum over i < size, a multiple of kLanes, of other[i] * in[offsets[tap] + i]
void dot(const float *in, const int64_t *offsets, int64_t taps, const float *other, int64_t size, float *out) {
  int64_t tap = 0;
  for (; tap + 9 <= taps; tap += 9) dot_block<9>(in, offsets + tap, other, size, out + tap);
  for (; tap + 5 <= taps; tap += 5) dot_block<5>(in, offsets + tap, other, size, out + tap);
  for (; tap < taps; ++tap) dot_block<1>(in, offsets + tap, other, size, out + tap);
}

// One side of an image, and where 'same' padding puts it in the phases.
struct Side {
  int64_t size, out_size, before, phase_size;
  Side(int64_t size, int64_t out_size, int64_t stride, int64_t kernel)
      : size(size), out_size(out_size), before(std::max<int64_t>((out_size - 1) * stride + kernel - size, 0) / 2),
        phase_size(out_size + (kernel - 1) / stride) {}
};

// Neighbouring channels that belong to the same input and the same weight.
struct Share {      // of stride 1 or 2, told from the shapes
  int64_t input, input_channels, input_first;     // number of the input, its channels, the first of the share
  int64_t weight, weight_first;
  int64_t first, all_channels, channels;          // among the channels of the output
  int64_t images, kernel, taps, stride;
  Side rows, columns;
  int64_t pitch, phase;                           // floats from row to row, from phase to phase
  std::vector<int64_t> offsets;                   // of each tap among the phases

  Share(const int64_t *x, const int64_t *w, const int64_t *y)
      : images(x[0]), kernel(w[2]), taps(kernel * kernel),
        stride(std::max((x[2] + y[2] - 1) / y[2], (x[3] + y[3] - 1) / y[3])), rows(x[2], y[2], stride, kernel),
        columns(x[3], y[3], stride, kernel), pitch(columns.phase_size),
        phase(whole_lanes(rows.phase_size * pitch + kernel) + kLanes) {
    for (int64_t i = 0; i < kernel; ++i)
      for (int64_t j = 0; j < kernel; ++j)
        offsets.push_back(((i % stride) * stride + j % stride) * phase + (i / stride) * pitch + j / stride);
  }

  int64_t phases() const { return stride * stride; }
  int64_t in(int64_t image, int64_t channel) const {
    return (image * input_channels + input_first + channel) * rows.size * columns.size;
  }
  int64_t out(int64_t image, int64_t channel) const {
    return (image * all_channels + first + channel) * rows.out_size * columns.out_size;
  }
  int64_t flat_size() const { return whole_lanes(rows.out_size * pitch); }

  // Calls each(position in a plane of the input, position in its phases) for all pixels.
  template <typename Each>
  void for_pixels(Each each) const {
    for (int64_t i = 0; i < rows.size; ++i) {
      const int64_t row = i + rows.before;
      for (int64_t rest = 0; rest < stride; ++rest) {
        const int64_t first_column = ((rest - columns.before) % stride + stride) % stride;
        const int64_t count = (columns.size - first_column + stride - 1) / stride;
        const int64_t from = i * columns.size + first_column;
        const int64_t to = (row % stride * stride + rest) * phase + row / stride * pitch
            + (first_column + columns.before) / stride;
        if (stride == 1) {
#pragma GCC ivdep
          for (int64_t j = 0; j < count; ++j) each(from + j, to + j);
        } else {
#pragma GCC ivdep
          for (int64_t j = 0; j < count; ++j) each(from + j * stride, to + j);
        }
      }
    }
  }

  // This is not done while copying: there the branch would be mispredicted, as pixels of two phases alternate.
  void relu_to_phases(const float *x, float *to) const {
    for_pixels([=](int64_t pixel, int64_t at) { to[at] = x[pixel]; });
    for (int64_t i = 0; i < phases() * phase; ++i) to[i] = to[i] < 0 ? 0 : to[i];     // NaN stays NaN
  }
};

// The tensors of a call: inputs, weights, and what follows them.
struct Call {
  void **params;
  int64_t **shapes;
  int64_t inputs, weights;

  Call(int64_t nparam, void **params, int64_t **shapes, bool gradients)
      : params(params), shapes(shapes), inputs(1) {
    const int64_t both = gradients ? (nparam - 1) / 2 : nparam - 1;
    // The first inputs whose channels add up to the channels of the weights after them.
    int64_t channels = shapes[0][1], others = 0;
    for (int64_t i = 1; i < both; ++i) others += shapes[i][0];
    while (channels < others) {
      others -= shapes[inputs][0];
      channels += shapes[inputs++][1];
    }
    weights = both - inputs;
  }

  const float *read(int64_t number) const { return static_cast<const float *>(params[number]); }
  float *write(int64_t number) const { return static_cast<float *>(params[number]); }

  std::vector<Share> shares() const {
    std::vector<Share> all;
    const int64_t *y = shapes[inputs + weights];
    int64_t input = 0, input_first = 0, weight = 0, weight_first = 0, first = 0;
    while (input < inputs && weight < weights) {
      const int64_t *x_shape = shapes[input], *w_shape = shapes[inputs + weight];
      Share share(x_shape, w_shape, y);
      share.input = input, share.input_channels = x_shape[1], share.input_first = input_first;
      share.weight = weight, share.weight_first = weight_first;
      share.first = first, share.all_channels = y[1];
      share.channels = std::min(x_shape[1] - input_first, w_shape[0] - weight_first);
      all.push_back(share);
      first += share.channels, input_first += share.channels, weight_first += share.channels;
      if (input_first == x_shape[1]) ++input, input_first = 0;
      if (weight_first == w_shape[0]) ++weight, weight_first = 0;
    }
    return all;
  }
};
}  // namespace

// inputs, weights -> y
extern "C" int forward(int nparam, void **params, int *, int64_t **shapes, const char **, void *, void *) {
  const Call call(nparam, params, shapes, false);
  const std::vector<Share> shares = call.shares();
#pragma omp parallel
  for (const Share &share : shares) {
    const float *x = call.read(share.input), *weight = call.read(call.inputs + share.weight);
    float *y = call.write(nparam - 1);
    std::vector<float> phases(share.phases() * share.phase), flat(share.flat_size());
#pragma omp for collapse(2) nowait
    for (int64_t image = 0; image < share.images; ++image)
      for (int64_t channel = 0; channel < share.channels; ++channel) {
        share.relu_to_phases(x + share.in(image, channel), phases.data());
        correlate(phases.data(), share.offsets.data(), weight + (share.weight_first + channel) * share.taps,
                  share.taps, flat.data(), share.flat_size());
        for (int64_t i = 0; i < share.rows.out_size; ++i)
          std::copy_n(flat.data() + i * share.pitch, share.columns.out_size,
                      y + share.out(image, channel) + i * share.columns.out_size);
      }
  }
  return 0;
}

// inputs, weights, gradient of y -> gradients of the inputs and of the weights
extern "C" int backward(int nparam, void **params, int *, int64_t **shapes, const char **, void *, void *) {
  const Call call(nparam, params, shapes, true);
  const int64_t both = call.inputs + call.weights;
  const std::vector<Share> shares = call.shares();
#pragma omp parallel
  for (const Share &share : shares) {
    const float *x = call.read(share.input), *weight = call.read(call.inputs + share.weight),
        *y_gradient = call.read(both);
    float *x_gradient = call.write(both + 1 + share.input),
        *weight_gradient = call.write(both + 1 + call.inputs + share.weight);
    const int64_t phase_size = whole_lanes(share.rows.phase_size * share.pitch),
        lead = (share.kernel - 1) / share.stride * (share.pitch + 1);   // the largest shift within a phase
    // The gradient of a phase is the sum of y's gradient, shifted the other way, over the taps that read the phase.
    std::vector<std::vector<int64_t>> taps(share.phases()), shifts(share.phases());
    for (int64_t tap = 0; tap < share.taps; ++tap) {
      taps[share.offsets[tap] / share.phase].push_back(tap);
      shifts[share.offsets[tap] / share.phase].push_back(lead - share.offsets[tap] % share.phase);
    }
    std::vector<float> phases(share.phases() * share.phase), gradients(phases.size()),
        flat(lead + phase_size + kLanes), factors(share.taps);
#pragma omp for nowait
    for (int64_t channel = 0; channel < share.channels; ++channel) {
      const int64_t kernel_at = (share.weight_first + channel) * share.taps;
      std::fill_n(weight_gradient + kernel_at, share.taps, 0.0f);
      for (int64_t image = 0; image < share.images; ++image) {
        share.relu_to_phases(x + share.in(image, channel), phases.data());
        for (int64_t i = 0; i < share.rows.out_size; ++i)
          std::copy_n(y_gradient + share.out(image, channel) + i * share.columns.out_size, share.columns.out_size,
                      flat.data() + lead + i * share.pitch);
        dot(phases.data(), share.offsets.data(), share.taps, flat.data() + lead, share.flat_size(),
            weight_gradient + kernel_at);
        for (int64_t phase = 0; phase < share.phases(); ++phase) {
          for (size_t i = 0; i < taps[phase].size(); ++i) factors[i] = weight[kernel_at + taps[phase][i]];
          correlate(flat.data(), shifts[phase].data(), factors.data(), taps[phase].size(),
                    gradients.data() + phase * share.phase, phase_size);
        }
        float *from = gradients.data(), *to = x_gradient + share.in(image, channel);
        for (size_t i = 0; i < gradients.size(); ++i) from[i] = phases[i] > 0 ? from[i] : 0;
        share.for_pixels([=](int64_t pixel, int64_t at) { to[pixel] = from[at]; });
      }
    }
  }
  return 0;
}
