// Numbers of 16 bits, as floats and back. Included once for each instruction set: see kernels.cpp.

static inline float from_half(uint16_t half) {
    const uint32_t sign = uint32_t(half & 0x8000) << 16, rest = half & 0x7fff;
    uint32_t bits;
    if (rest >= 0x7c00) {  // infinite, or NaN
        bits = (rest << 13) + (112u << 23) + (112u << 23);
    } else if (rest >= 0x0400) {
        bits = (rest << 13) + (112u << 23);
    } else {  // a multiple of 2**-24
        const float small = float(rest) * 5.9604644775390625e-8f;
        std::memcpy(&bits, &small, 4);
    }
    bits |= sign;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

// To the nearest, ties to even.
static inline uint16_t to_half(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const uint16_t sign = uint16_t(bits >> 16) & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return sign | 0x7e00;
    if (bits >= 0x477ff000) return sign | 0x7c00;
    if (bits < 0x38800000) {  // below the normal numbers: adding 0.5 rounds at 2**-24, its last place
        float magnitude;
        std::memcpy(&magnitude, &bits, 4);
        magnitude += 0.5f;
        std::memcpy(&bits, &magnitude, 4);
        return sign | uint16_t(bits - 0x3f000000);
    }
    bits += 0xfff + (bits >> 13 & 1);
    return sign | uint16_t((bits - (112u << 23)) >> 13);
}

static inline float from_bfloat(uint16_t high) {
    const uint32_t bits = uint32_t(high) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

// To the nearest, ties to even.
static inline uint16_t to_bfloat(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t(bits >> 16) | 0x40;
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
