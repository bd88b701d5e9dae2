// Depthwise convolutions of several kernel sizes, padded 'same', on the CPU: forward and backward kernels in the form
// that MindSpore's Custom operators of type "aot" call.
//
// The channels of x (N, C, H, W) are shared out among the weights (C_1, 1, K_1, K_1), (C_2, 1, K_2, K_2), ... in
// their order. Everything is a loop over planes (one channel of one image). A plane is copied with its padding into
// stride x stride phases, each a stride-1 image with rows `pitch` apart; an output with rows as far apart is then, for
// every tap of the kernel, one long product of a factor and a shifted phase, whatever the stride and the kernel. The
// columns between the rows hold no result and are left out when rows are copied back.
//
// A result does not depend on the number of threads: no sum is shared by two.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {
constexpr int64_t kLanes = 8;
typedef float Lanes __attribute__((vector_size(4 * kLanes), aligned(4)));

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

// One side of an image, and where 'same' puts it among the phases.
struct Side {
  int64_t size, out_size, before, phase_size;
  Side(int64_t size, int64_t out_size, int64_t stride, int64_t kernel)
      : size(size), out_size(out_size), before(std::max<int64_t>((out_size - 1) * stride + kernel - size, 0) / 2),
        phase_size(out_size + (kernel - 1) / stride) {}
};

// The planes of the channels that one weight convolves.
struct Share {
  int64_t images, all_channels, first, channels, kernel, taps, stride;
  Side rows, columns;
  int64_t pitch, phase;           // floats from row to row, from phase to phase
  std::vector<int64_t> offsets;   // of each tap among the phases

  Share(const int64_t *x, const int64_t *w, const int64_t *y, int64_t first)
      : images(x[0]), all_channels(x[1]), first(first), channels(w[0]), kernel(w[2]), taps(kernel * kernel),
        stride(std::max((x[2] + y[2] - 1) / y[2], (x[3] + y[3] - 1) / y[3])), rows(x[2], y[2], stride, kernel),
        columns(x[3], y[3], stride, kernel), pitch(columns.phase_size),
        phase(whole_lanes(rows.phase_size * pitch + kernel) + kLanes) {
    for (int64_t i = 0; i < kernel; ++i)
      for (int64_t j = 0; j < kernel; ++j)
        offsets.push_back(((i % stride) * stride + j % stride) * phase + (i / stride) * pitch + j / stride);
  }

  int64_t plane(int64_t image, int64_t channel) const { return image * all_channels + first + channel; }
  int64_t out_size() const { return whole_lanes(rows.out_size * pitch); }

  // Copies between an image and its phases (forth or back), row by row.
  template <bool kForth, typename Image, typename Phases>
  void copy(Image *image, Phases *phases) const {
    for (int64_t i = 0; i < rows.size; ++i) {
      const int64_t row = i + rows.before;
      for (int64_t rest = 0; rest < stride; ++rest) {
        const int64_t first_column = ((rest - columns.before) % stride + stride) % stride;
        Image *from = image + i * columns.size;
        Phases *to = phases + (row % stride * stride + rest) * phase + row / stride * pitch
            + (first_column + columns.before) / stride;
        for (int64_t j = first_column; j < columns.size; j += stride, ++to)
          if constexpr (kForth) *to = from[j]; else from[j] = *to;
      }
    }
  }
};

template <typename Each>
void for_shares(const int64_t *x, int64_t **weights, int64_t count, const int64_t *y, Each each) {
  for (int64_t number = 0, first = 0; number < count; first += weights[number][0], ++number)
    each(number, Share(x, weights[number], y, first));
}

const float *input(void **params, int64_t number) { return static_cast<const float *>(params[number]); }
float *output(void **params, int64_t number) { return static_cast<float *>(params[number]); }
}  // namespace

// x, weights -> y
extern "C" int forward(int nparam, void **params, int *, int64_t **shapes, const char **, void *, void *) {
  const float *x = input(params, 0);
  float *y = output(params, nparam - 1);
  for_shares(shapes[0], shapes + 1, nparam - 2, shapes[nparam - 1], [&](int64_t number, const Share &share) {
    const float *weight = input(params, 1 + number);
    const int64_t in_plane = share.rows.size * share.columns.size, width = share.columns.out_size,
        out_plane = share.rows.out_size * width;
#pragma omp parallel
    {
      std::vector<float> phases(share.stride * share.stride * share.phase), flat(share.out_size());
#pragma omp for collapse(2)
      for (int64_t image = 0; image < share.images; ++image)
        for (int64_t channel = 0; channel < share.channels; ++channel) {
          const int64_t plane = share.plane(image, channel);
          share.copy<true>(x + plane * in_plane, phases.data());
          correlate(phases.data(), share.offsets.data(), weight + channel * share.taps, share.taps, flat.data(),
                    share.out_size());
          for (int64_t i = 0; i < share.rows.out_size; ++i)
            std::copy_n(flat.data() + i * share.pitch, width, y + plane * out_plane + i * width);
        }
    }
  });
  return 0;
}

// x, weights, gradient of y -> gradients of x and of the weights
extern "C" int backward(int nparam, void **params, int *, int64_t **shapes, const char **, void *, void *) {
  const int64_t weights = (nparam - 3) / 2;
  const float *x = input(params, 0), *y_gradient = input(params, 1 + weights);
  float *x_gradient = output(params, 2 + weights);
  for_shares(shapes[0], shapes + 1, weights, shapes[1 + weights], [&](int64_t number, const Share &share) {
    const float *weight = input(params, 1 + number);
    float *weight_gradient = output(params, 3 + weights + number);
    const int64_t in_plane = share.rows.size * share.columns.size, width = share.columns.out_size,
        out_plane = share.rows.out_size * width, phases_count = share.stride * share.stride,
        phase_size = whole_lanes(share.rows.phase_size * share.pitch),
        lead = (share.kernel - 1) / share.stride * (share.pitch + 1);   // the largest shift within a phase
    // A phase's gradient is the gradient of y under the taps that read the phase, shifted the other way.
    std::vector<std::vector<int64_t>> taps(phases_count), shifts(phases_count);
    for (int64_t tap = 0; tap < share.taps; ++tap) {
      taps[share.offsets[tap] / share.phase].push_back(tap);
      shifts[share.offsets[tap] / share.phase].push_back(lead - share.offsets[tap] % share.phase);
    }
#pragma omp parallel
    {
      std::vector<float> phases(phases_count * share.phase), gradients(phases_count * share.phase),
          flat(lead + phase_size + kLanes), factors(share.taps);
#pragma omp for
      for (int64_t channel = 0; channel < share.channels; ++channel) {
        float *sums = weight_gradient + channel * share.taps;
        std::fill_n(sums, share.taps, 0.0f);
        for (int64_t image = 0; image < share.images; ++image) {
          const int64_t plane = share.plane(image, channel);
          share.copy<true>(x + plane * in_plane, phases.data());
          for (int64_t i = 0; i < share.rows.out_size; ++i)
            std::copy_n(y_gradient + plane * out_plane + i * width, width, flat.data() + lead + i * share.pitch);
          dot(phases.data(), share.offsets.data(), share.taps, flat.data() + lead, share.out_size(), sums);
          for (int64_t phase = 0; phase < phases_count; ++phase) {
            for (size_t i = 0; i < taps[phase].size(); ++i)
              factors[i] = weight[channel * share.taps + taps[phase][i]];
            correlate(flat.data(), shifts[phase].data(), factors.data(), taps[phase].size(),
                      gradients.data() + phase * share.phase, phase_size);
          }
          share.copy<false>(x_gradient + plane * in_plane, gradients.data());
        }
      }
    }
  });
  return 0;
}
