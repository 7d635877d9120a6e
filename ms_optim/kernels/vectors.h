// What a range of vectors comes to. Included once for each instruction set: see kernels.cpp.

// The sum of products in float64, added up in the same order by all instruction sets.
template <class T>
static double dot(const T *a, const T *b, int64_t count) {
    constexpr int LANES = 16;
    double sums[LANES] = {};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int k = 0; k < LANES; ++k) sums[k] += double(a[i + k]) * double(b[i + k]);
    for (int k = 0; i < count; ++i, ++k) sums[k] += double(a[i]) * double(b[i]);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int k = 0; k < half; ++k) sums[k] += sums[k + half];
    return sums[0];
}

// x += factor * y, the product rounded first.
template <class T>
static void add_scaled(T *__restrict x, T factor, const T *__restrict y, int64_t count) {
    for (int64_t i = 0; i < count; ++i) x[i] += factor * y[i];
}
