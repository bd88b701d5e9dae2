// Kernels for a CPU, as Custom operators of MindSpore call them: ReLU and depthwise convolutions of several sizes, 3x3
// pools, and BatchNorm in training. No sum is shared by two threads, so their number does not change a result.
//
// Convolutions and pools pad 'same'. They are loops over planes; a plane is one channel of one image. It is copied,
// with its padding, into stride x stride phases. A phase is an image of every stride-th pixel, so that a kernel of any
// stride becomes one of stride 1. The rows of a phase are `pitch` apart, and so are the rows of the output. Then each
// tap of the kernel is one long operation on a shifted phase, for all rows at once. The columns between the rows hold
// no result; they are left out when rows are copied back.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#define OPERATOR(name) \
  extern "C" int name(int count, void **tensors, int *, int64_t **shapes, const char **, void *, void *)

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

// The planes of an input (N, C, H, W) and an output, whose stride is told from the shapes.
struct Planes {
  int64_t kernel, taps, stride, phases;
  Side rows, columns;
  int64_t pitch, phase, in_size, out_size;        // floats from row to row, from phase to phase, in a plane
  std::vector<int64_t> offsets;                   // of each tap among the phases

  Planes(const int64_t *x, int64_t kernel, const int64_t *y)
      : kernel(kernel), taps(kernel * kernel),
        stride(std::max((x[2] + y[2] - 1) / y[2], (x[3] + y[3] - 1) / y[3])), phases(stride * stride),
        rows(x[2], y[2], stride, kernel), columns(x[3], y[3], stride, kernel), pitch(columns.phase_size),
        phase(whole_lanes(rows.phase_size * pitch + kernel) + kLanes), in_size(x[2] * x[3]), out_size(y[2] * y[3]) {
    for (int64_t i = 0; i < kernel; ++i)
      for (int64_t j = 0; j < kernel; ++j)
        offsets.push_back(((i % stride) * stride + j % stride) * phase + (i / stride) * pitch + j / stride);
  }

  int64_t phases_size() const { return phases * phase; }
  int64_t flat_size() const { return whole_lanes(rows.out_size * pitch); }

  // Calls each(position in a plane of the input, position in its phases) for all pixels.
  template <typename Each> void for_pixels(Each each) const {
    for (int64_t i = 0; i < rows.size; ++i) {
      const int64_t row = i + rows.before;
      for (int64_t rest = 0; rest < stride; ++rest) {
        const int64_t first_column = ((rest - columns.before) % stride + stride) % stride;
        const int64_t count = (columns.size - first_column + stride - 1) / stride;
        const int64_t from = i * columns.size + first_column;
        const int64_t to = (row % stride * stride + rest) * phase + row / stride * pitch
            + (first_column + columns.before) / stride;
        if (stride == 1)
#pragma GCC ivdep
          for (int64_t j = 0; j < count; ++j) each(from + j, to + j);
        else
          for (int64_t j = 0; j < count; ++j) each(from + j * stride, to + j);
      }
    }
  }

  // Calls each(position in a plane of the output, position in the flat output with its gaps) for all pixels.
  template <typename Each> void for_out_pixels(Each each) const {
    for (int64_t i = 0; i < rows.out_size; ++i)
#pragma GCC ivdep
      for (int64_t j = 0; j < columns.out_size; ++j) each(i * columns.out_size + j, i * pitch + j);
  }

  void relu_to_phases(const float *x, float *to) const {
    for_pixels([=](int64_t pixel, int64_t at) { to[at] = x[pixel] < 0 ? 0 : x[pixel]; });       // NaN stays NaN
  }

  // Pool of a plane: out[i] = the largest or the sum of in[offset + i] over all taps
  template <bool kLargest> void pool(const float *in, float *out) const {
    std::fill_n(out, flat_size(), kLargest ? -INFINITY : 0);
    for (int64_t offset : offsets)
      for (int64_t i = 0; i < flat_size(); ++i)
        out[i] = kLargest ? std::max(out[i], in[offset + i]) : out[i] + in[offset + i];
  }
};

// Neighbouring channels of a convolution that belong to the same input and the same weight.
struct Share {
  Planes planes;
  int64_t images, channels;
  float *x, *weight, *y, *x_gradient, *weight_gradient;       // at the first channel of the share
  int64_t x_image, y_image;                                   // floats from image to image
};

// The tensors of a convolution: inputs (N, C_i, H, W), taken as one tensor of all their channels; weights
// (D_j, 1, K_j, K_j), which convolve these channels one share after another; then y or its gradient; then gradients.
std::vector<Share> shares(int64_t count, void **tensors, int64_t **shapes, bool backward) {
  const int64_t both = backward ? (count - 1) / 2 : count - 1;
  // The first inputs whose channels add up to the channels of the weights after them.
  int64_t inputs = 1, channels = shapes[0][1], others = 0;
  for (int64_t i = 1; i < both; ++i) others += shapes[i][0];
  for (; channels < others; channels += shapes[inputs++][1]) others -= shapes[inputs][0];
  std::vector<Share> all;
  for (int64_t input = 0, weight = inputs, done = 0, used = 0, first = 0; weight < both;) {
    const int64_t *x = shapes[input], *w = shapes[weight];
    const Planes planes(x, w[2], shapes[both]);
    const int64_t here = std::min(x[1] - done, w[0] - used);
    const auto at = [=](int64_t tensor, int64_t position) { return static_cast<float *>(tensors[tensor]) + position; };
    const int64_t x_at = done * planes.in_size, weight_at = used * planes.taps, gradients = backward ? both + 1 : 0;
    all.push_back({planes, x[0], here, at(input, x_at), at(weight, weight_at), at(both, first * planes.out_size),
                   at(gradients + input, x_at), at(gradients + weight, weight_at),
                   x[1] * planes.in_size, channels * planes.out_size});
    first += here, done += here, used += here;
    if (done == x[1]) ++input, done = 0;
    if (used == w[0]) ++weight, used = 0;
  }
  return all;
}

template <bool kLargest, bool kBackward> int pool(void **tensors, int64_t **shapes) {
  const Planes planes(shapes[0], 3, shapes[1]);
#pragma omp parallel
  {
    std::vector<float> phases(planes.phases_size(), kLargest ? -INFINITY : 0), gradients(phases.size()),
        flat(planes.flat_size()), counts(flat.size(), 1), y_gradient(flat.size());
    if (!kLargest) {        // The sums of a plane of ones are the numbers of pixels that y is the average of.
      planes.for_pixels([&](int64_t, int64_t at) { phases[at] = 1; });
      planes.pool<false>(phases.data(), counts.data());
    }
#pragma omp for
    for (int64_t plane = 0; plane < shapes[0][0] * shapes[0][1]; ++plane) {
      const float *x = static_cast<float *>(tensors[0]) + plane * planes.in_size;
      float *y = static_cast<float *>(tensors[1]) + plane * planes.out_size;        // or its gradient
      planes.for_pixels([&](int64_t pixel, int64_t at) { phases[at] = x[pixel]; });
      if (kLargest || !kBackward) planes.pool<kLargest>(phases.data(), flat.data());
      if (!kBackward) {
        planes.for_out_pixels([&](int64_t pixel, int64_t at) { y[pixel] = flat[at] / counts[at]; });
        continue;
      }
      planes.for_out_pixels([&](int64_t pixel, int64_t at) { y_gradient[at] = y[pixel] / counts[at]; });
      std::fill(gradients.begin(), gradients.end(), 0);
      for (int64_t offset : planes.offsets)
        for (int64_t i = 0; i < planes.flat_size(); ++i) {
          const float part = !kLargest || phases[offset + i] == flat[i] ? y_gradient[i] : 0;
          gradients[offset + i] += part;
          if (kLargest) y_gradient[i] -= part;        // the first of several largest pixels gets all
        }
      float *x_gradient = static_cast<float *>(tensors[2]) + plane * planes.in_size;
      planes.for_pixels([&](int64_t pixel, int64_t at) { x_gradient[pixel] = gradients[at]; });
    }
  }
  return 0;
}

// The channels of a tensor (N, C, H, W). All pixels of a channel fit in the cache of a core, so memory is read once.
struct Channels {
  int64_t images, count, plane;
  double pixels() const { return images * plane; }

  // Calls each(position in the tensor) for the pixels of a channel.
  template <typename Each> void for_pixels(int64_t channel, Each each) const {
    for (int64_t image = 0; image < images; ++image) {
      const int64_t first = (image * count + channel) * plane;
#pragma GCC ivdep
      for (int64_t i = first; i < first + plane; ++i) each(i);
    }
  }

  // The mean of term(position). Terms are added in lanes, as one after another would be slow and less exact.
  template <typename Term> double mean(int64_t channel, Term term) const {
    double total = 0;
    for (int64_t image = 0; image < images; ++image) {
      int64_t i = (image * count + channel) * plane;
      const int64_t end = i + plane;
      float sums[4 * kLanes] = {}, rest = 0;
      for (; i + 4 * kLanes <= end; i += 4 * kLanes)
        for (int64_t lane = 0; lane < 4 * kLanes; ++lane) sums[lane] += term(i + lane);
      for (; i < end; ++i) rest += term(i);
      for (float sum : sums) rest += sum;
      total += rest;
    }
    return total / pixels();
  }
};
}  // namespace

// inputs, weights -> y
OPERATOR(depthwise) {
  const std::vector<Share> all = shares(count, tensors, shapes, false);
#pragma omp parallel
  for (const Share &share : all) {
    const Planes &planes = share.planes;
    std::vector<float> phases(planes.phases_size()), flat(planes.flat_size());
#pragma omp for collapse(2) nowait
    for (int64_t image = 0; image < share.images; ++image)
      for (int64_t channel = 0; channel < share.channels; ++channel) {
        planes.relu_to_phases(share.x + image * share.x_image + channel * planes.in_size, phases.data());
        correlate(phases.data(), planes.offsets.data(), share.weight + channel * planes.taps, planes.taps, flat.data(),
                  planes.flat_size());
        float *y = share.y + image * share.y_image + channel * planes.out_size;
        planes.for_out_pixels([&](int64_t pixel, int64_t at) { y[pixel] = flat[at]; });
      }
  }
  return 0;
}

// inputs, weights, gradient of y -> gradients of the inputs and of the weights
OPERATOR(depthwise_backward) {
  const std::vector<Share> all = shares(count, tensors, shapes, true);
#pragma omp parallel
  for (const Share &share : all) {
    const Planes &planes = share.planes;
    const int64_t phase_size = whole_lanes(planes.rows.phase_size * planes.pitch),
        lead = (planes.kernel - 1) / planes.stride * (planes.pitch + 1);    // the largest shift within a phase
    // The gradient of a phase is the sum of y's gradient, shifted the other way, over the taps that read the phase.
    std::vector<std::vector<int64_t>> taps(planes.phases), shifts(planes.phases);
    for (int64_t tap = 0; tap < planes.taps; ++tap) {
      taps[planes.offsets[tap] / planes.phase].push_back(tap);
      shifts[planes.offsets[tap] / planes.phase].push_back(lead - planes.offsets[tap] % planes.phase);
    }
    std::vector<float> phases(planes.phases_size()), gradients(phases.size()), flat(lead + phase_size + kLanes),
        factors(planes.taps);
#pragma omp for nowait
    for (int64_t channel = 0; channel < share.channels; ++channel) {
      const float *weight = share.weight + channel * planes.taps;
      float *weight_gradient = share.weight_gradient + channel * planes.taps;
      std::fill_n(weight_gradient, planes.taps, 0.0f);
      for (int64_t image = 0; image < share.images; ++image) {
        const int64_t plane = image * share.x_image + channel * planes.in_size;
        const float *y_gradient = share.y + image * share.y_image + channel * planes.out_size;
        float *from = gradients.data(), *to = share.x_gradient + plane;
        planes.relu_to_phases(share.x + plane, phases.data());
        planes.for_out_pixels([&](int64_t pixel, int64_t at) { flat[lead + at] = y_gradient[pixel]; });
        dot(phases.data(), planes.offsets.data(), planes.taps, &flat[lead], planes.flat_size(), weight_gradient);
        for (int64_t phase = 0; phase < planes.phases; ++phase) {
          for (size_t i = 0; i < taps[phase].size(); ++i) factors[i] = weight[taps[phase][i]];
          correlate(flat.data(), shifts[phase].data(), factors.data(), taps[phase].size(), from + phase * planes.phase,
                    phase_size);
        }
        for (size_t i = 0; i < gradients.size(); ++i) from[i] = phases[i] > 0 ? from[i] : 0;
        planes.for_pixels([=](int64_t pixel, int64_t at) { to[pixel] = from[at]; });
      }
    }
  }
  return 0;
}

// Pools: x -> y, and x, gradient of y -> gradient of x
OPERATOR(average) { return pool<false, false>(tensors, shapes); }
OPERATOR(largest) { return pool<true, false>(tensors, shapes); }
OPERATOR(average_backward) { return pool<false, true>(tensors, shapes); }
OPERATOR(largest_backward) { return pool<true, true>(tensors, shapes); }

// x, gamma, beta, moving mean, moving variance, settings (epsilon, momentum, 1 for a moving variance without bias or
// 0) -> y, mean, 1 / standard deviation, new moving mean, new moving variance
OPERATOR(batch_norm) {
  float **floats = reinterpret_cast<float **>(tensors), *x = floats[0], *settings = floats[5], *y = floats[6];
  const Channels channels{shapes[0][0], shapes[0][1], shapes[0][2] * shapes[0][3]};
  const double unbiased = channels.pixels() / std::max(channels.pixels() - settings[2], 1.0);
#pragma omp parallel for
  for (int64_t c = 0; c < channels.count; ++c) {
    const float mean = channels.mean(c, [=](int64_t i) { return x[i]; });
    const double variance = channels.mean(c, [=](int64_t i) { return (x[i] - mean) * (x[i] - mean); });
    const float scale = 1 / std::sqrt(variance + settings[0]), factor = floats[1][c] * scale, shift = floats[2][c];
    channels.for_pixels(c, [=](int64_t i) { y[i] = (x[i] - mean) * factor + shift; });
    floats[7][c] = mean;
    floats[8][c] = scale;
    floats[9][c] = floats[3][c] + settings[1] * (mean - floats[3][c]);
    floats[10][c] = floats[4][c] + settings[1] * (variance * unbiased - floats[4][c]);
  }
  return 0;
}

// x, gamma, mean, 1 / standard deviation, gradient of y -> gradients of x, gamma and beta
OPERATOR(batch_norm_backward) {
  float **floats = reinterpret_cast<float **>(tensors), *x = floats[0], *y_gradient = floats[4], *to = floats[5];
  const Channels channels{shapes[0][0], shapes[0][1], shapes[0][2] * shapes[0][3]};
#pragma omp parallel for
  for (int64_t c = 0; c < channels.count; ++c) {
    const float mean = floats[2][c], scale = floats[3][c], factor = floats[1][c] * scale;
    const float sum = channels.mean(c, [=](int64_t i) { return y_gradient[i]; });
    const float product = channels.mean(c, [=](int64_t i) { return y_gradient[i] * (x[i] - mean); }) * scale * scale;
    channels.for_pixels(c, [=](int64_t i) { to[i] = factor * (y_gradient[i] - sum - (x[i] - mean) * product); });
    floats[6][c] = product / scale * channels.pixels();
    floats[7][c] = sum * channels.pixels();
  }
  return 0;
}
